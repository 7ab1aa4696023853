package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/agent/schedule"
)

// Commands in texts stand between backquotes; those that are all of a text, or its
// beginning, need none. One that a text ends in goes on with the name of a node.
var (
	quotedCommand = regexp.MustCompile("`(moult( [^`]*)?)(`|$)")
	wholeCommand  = regexp.MustCompile(`^moult [a-z].*`)
)

// noCommands are the second words of texts that begin like commands and are none: what
// keys and signatures are for, and sentences.
var noCommands = []string{"slot", "gossip", "packets", "admission", "status record", "journal", "floor", "agent runs"}

// printedCommands returns every command that a string of the program has, and where.
func printedCommands(t *testing.T) map[string]token.Position {
	t.Helper()
	found := map[string]token.Position{}
	files := token.NewFileSet()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && slices.Contains([]string{"testdata", ".git", "build"}, d.Name()) {
			if err == nil {
				err = fs.SkipDir
			}
			return err
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, command := range commandsIn(text) {
				found[command] = files.Position(lit.Pos())
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func commandsIn(text string) (commands []string) {
	for _, m := range quotedCommand.FindAllStringSubmatch(text, -1) {
		if m[3] == "" {
			m[1] += "NODE"
		}
		commands = append(commands, m[1])
	}
	if wholeCommand.MatchString(text) && !slices.ContainsFunc(noCommands, func(no string) bool { return strings.HasPrefix(text, "moult "+no) }) {
		if strings.HasSuffix(text, " ") {
			text += "NODE"
		}
		commands = append(commands, text)
	}
	return commands
}

// typeCommand runs a command as it is printed, and reports why it makes no sense. A mere
// name of a command, in a sentence, has to be one.
func typeCommand(t *testing.T, command, dir string) error {
	t.Helper()
	bundle := filepath.Join(dir, "release.moult")
	for _, r := range [][2]string{
		{"%d", "1"}, {"%s", "n1"}, {"NODE", "n1"}, {"BUNDLE", bundle}, {"FOLDER", filepath.Join(dir, "new")}, {"FILE", filepath.Join(dir, "past.hcl")},
		{"ROOT", filepath.Join(dir, "trust", "root.json")}, {"HOST:PORT", "127.0.0.1:1"}, {"past-2.hcl", filepath.Join(dir, "past.hcl")}, {" …", ""},
	} {
		command = strings.ReplaceAll(command, r[0], r[1])
	}
	words := strings.Fields(command)
	var out, errs bytes.Buffer
	code := run(t.Context(), words, &out, &errs)
	if code != exitMisuse {
		return nil
	}
	named := !slices.ContainsFunc(words[1:], func(w string) bool { return !regexp.MustCompile(`^[a-z]+$`).MatchString(w) })
	if help := run(t.Context(), append(words, "--help"), &out, &bytes.Buffer{}); named && help == exitDone {
		return nil
	}
	return fmt.Errorf("exit code %d: %s", code, errs.String())
}

// TestPrintedCommands types every command that the program prints. Where there is no
// agent to ask they fail, but all make sense. TestWaysOut follows some to their effect.
func TestPrintedCommands(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MOULT_AGENT", filepath.Join(dir, "none"))
	t.Setenv("MOULT_TRUST", filepath.Join(dir, "trust"))
	if code := run(t.Context(), []string{"moult", "trust", "init", filepath.Join(dir, "trust")}, &bytes.Buffer{}, &bytes.Buffer{}); code != exitDone {
		t.Fatal("no trust folder")
	}
	commands := printedCommands(t)
	if len(commands) < 30 {
		t.Errorf("only %d commands are found", len(commands))
	}
	for command, at := range commands {
		if err := typeCommand(t, command, dir); err != nil {
			t.Errorf("%s: %q, as it is printed: %v", at, command, err)
		}
	}
	for _, wrong := range []string{
		"moult skp NODE", "moult skip --relase 1 NODE", "moult skip NODE n2", "moult why --release 1 NODE", "moult trust pull", "moult abort NODE",
	} {
		if typeCommand(t, wrong, dir) == nil {
			t.Errorf("%q is not caught", wrong)
		}
	}
	for text, want := range map[string]string{
		"try `moult retry n1` again": "moult retry n1", "; `moult retry ": "moult retry NODE", "moult skip ": "moult skip NODE", "moult skp x": "moult skp x",
	} {
		if got := commandsIn(text); len(got) != 1 || got[0] != want {
			t.Errorf("in %q: %q, want %q", text, got, want)
		}
	}
}

// TestConfirmationNamesRelease: what is typed to do without a question what --release asked
// for does it to that release, not to the newest.
func TestConfirmationNamesRelease(t *testing.T) {
	order := &schedule.Order{Release: 7, State: schedule.StateAborted, Joined: &schedule.Joined{Open: true}}
	for name, ask := range map[string]func(*cli.Context, *schedule.Order, control.Status) error{"pause": confirmJoin, "abort": confirmAbort} {
		c := cli.NewContext(&cli.App{Reader: strings.NewReader("")}, flag.NewFlagSet(name, flag.ContinueOnError), nil)
		err, ok := errors.AsType[*exitError](ask(c, order, control.Status{}))
		if !ok || !strings.Contains(err.hint, "`moult "+name+" --yes --release 7`") {
			t.Errorf("%s: %+v", name, err)
		}
	}
}

// TestConfirmationsOnTheWayBack: what is confirmed says what becomes of the nodes.
func TestConfirmationsOnTheWayBack(t *testing.T) {
	joined := &schedule.Joined{Open: true}
	for name, c := range map[string]struct {
		order *schedule.Order
		ask   func(*cli.Context, *schedule.Order, control.Status) error
		want  string
	}{
		"pause":           {&schedule.Order{Release: 7, State: schedule.StateAborted, Joined: joined}, confirmJoin, "nodes have it and keep it, and no other gets it"},
		"pause, back":     {&schedule.Order{Release: 7, Turn: 1, State: schedule.StateAborted, Joined: joined}, confirmJoin, "nodes have taken it back, and no other does"},
		"revert":          {&schedule.Order{Release: 7, State: schedule.StateRunning}, confirmTurn, "2 have not got it"},
		"revert, aborted": {&schedule.Order{Release: 7, State: schedule.StateAborted}, confirmTurn, "would bring release 7 to all of them"},
	} {
		ctx := cli.NewContext(&cli.App{Reader: strings.NewReader("")}, flag.NewFlagSet(name, flag.ContinueOnError), nil)
		if err := c.ask(ctx, c.order, control.Status{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func confirmTurn(c *cli.Context, o *schedule.Order, _ control.Status) error {
	return confirmRevert(c, o, operator.Concerned{Go: 1, Stay: 2}, false)
}

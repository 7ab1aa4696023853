package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/cmd/moult/internal/screen"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
)

// Flags that several commands share. Each command lists what it takes: none
// is inherited.
func agentFlag() cli.Flag {
	return &cli.StringFlag{Name: "agent", Value: "/var/lib/moult", EnvVars: []string{"MOULT_AGENT"},
		Usage: "the agent to ask: its data `FOLDER`, its socket, or an http:// address"}
}

func trustFlag() cli.Flag {
	return &cli.StringFlag{Name: "trust", Value: "trust", EnvVars: []string{"MOULT_TRUST"},
		Usage: "the trust `FOLDER` with the keys and metadata"}
}

func timeoutFlag(def time.Duration) cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: def, Usage: "give up after this `TIME`"}
}

// noColorFlag is read by screen.TerminalOf, which heeds NO_COLOR as well, whatever it says.
func noColorFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-color", Usage: "no colour; as with NO_COLOR in the environment"}
}

// printNotes tells what does not keep a command from doing its work.
func printNotes(c *cli.Context, notes []string) {
	if o := outcomeOf(c); o != nil {
		o.Notes = append(o.Notes, notes...)
		return
	}
	for _, note := range notes {
		fmt.Fprintf(c.App.ErrWriter, "moult: note: %s\n", note)
	}
}

func client(c *cli.Context) *control.Client {
	api := control.NewClient(c.String("agent"))
	api.UseToken(os.Getenv(control.TokenVariable))
	return api
}

// openTrust opens the trust folder that the flags name.
func openTrust(c *cli.Context) (*trust.Folder, error) {
	const hint = "name the trust folder with --trust or MOULT_TRUST; `moult trust init FOLDER` makes a new one"
	dir := c.String("trust")
	f, err := trust.OpenFolder(dir, time.Now())
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(dir); statErr != nil {
			return nil, failedf(hint, "open the trust folder: %w", statErr)
		}
		return nil, failedf(hint, "%w", err)
	}
	return f, err
}

// openBundle opens and checks a bundle file. The caller closes it, after the
// last use of the bundle.
// openBundle opens and checks a bundle; talk is where it tells how far that is.
func openBundle(path string, firstRoot []byte, talk io.Writer) (*archive.Bundle, *os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, failedf("name the file that `moult bundle build` wrote", "open bundle: %w", err)
	}
	b, err := checkBundle(f, firstRoot, talk)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return b, f, nil
}

func checkBundle(f *os.File, firstRoot []byte, talk io.Writer) (*archive.Bundle, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, failedf("name the file that `moult bundle build` wrote", "open bundle: %s is not a file", f.Name())
	}
	shown := screen.TransferOn(talk)
	defer shown.Done()
	b, err := archive.Open(shown.ReadingAt(f, "checking", fi.Size()), fi.Size(), firstRoot, nil)
	if err != nil {
		return nil, operator.Refusal(fmt.Errorf("%s: %w", f.Name(), err))
	}
	return b, nil
}

func usageError(c *cli.Context, err error, _ bool) error {
	return misusef(seeHelp(c), "%v", err)
}

// commandName is what follows "moult" on the command line.
func commandName(c *cli.Context) string {
	return strings.TrimPrefix(c.Command.HelpName, "moult ")
}

func seeHelp(c *cli.Context) string {
	name := "moult"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return "see `" + name + " --help`"
}

// noArgs refuses arguments that a command does not take.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return misusef(seeHelp(c), "%s takes no argument, got %q", commandName(c), c.Args().First())
	}
	return nil
}

// oneArg returns the one argument that a command takes.
func oneArg(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", misusef(seeHelp(c), "%s takes one argument, %s; got %d (flags come before it)", commandName(c), what, c.NArg())
	}
	return c.Args().First(), nil
}

// positive reads a flag that is a time and must not be 0 or less.
func positive(c *cli.Context, flag string) (time.Duration, error) {
	d := c.Duration(flag)
	if d <= 0 {
		return 0, misusef(seeHelp(c), "--%s %v: want a time above 0, such as 30s or 24h", flag, d)
	}
	return d, nil
}

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"moult/cmd/moult/internal/screen"
	"moult/simlayer/so"
	"moult/store/durable"
)

func rulesCommand() *cli.Command {
	return &cli.Command{
		Name:  "rules",
		Usage: "look after the rules files of simulation objects",
		Subcommands: []*cli.Command{{
			Name:      "test",
			Usage:     "run the examples that rules files carry, without a cluster",
			ArgsUsage: "FILE...",
			Flags: []cli.Flag{outputFlag(),
				&cli.BoolFlag{Name: "strict", Usage: "fail if no example reaches some call of a file", DisableDefaultText: true}},
			Action: testRules,
		}},
	}
}

// rulesReport is `moult rules test -o json`.
type rulesReport struct {
	Files  []rulesFile `json:"files"`
	OK     int         `json:"ok"`
	Failed int         `json:"failed"`
}

// rulesFile is what came of one file.
type rulesFile struct {
	File string `json:"file"`
	// Error says why the file cannot be used; then there is nothing else.
	Error string `json:"error,omitempty"`
	// Bounded files run in the agent itself, others in a process of their own.
	Bounded   bool           `json:"bounded"`
	Unbounded []string       `json:"unbounded"`
	Examples  []so.Result    `json:"examples"`
	Unreached []so.CallPlace `json:"unreached"`
}

func testRules(c *cli.Context) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	if !c.Args().Present() {
		return misusef(seeHelp(c), "%s takes rules files, as in `moult rules test past-2.hcl`", commandName(c))
	}
	report := rulesReport{Files: []rulesFile{}}
	broken, unreached := 0, 0
	for _, path := range c.Args().Slice() {
		f := testRulesFile(path)
		for _, r := range f.Examples {
			if r.OK() {
				report.OK++
			} else {
				report.Failed++
			}
		}
		if f.Error != "" {
			broken++
		}
		unreached += len(f.Unreached)
		report.Files = append(report.Files, f)
	}
	if asJSON {
		err = writeJSON(c.App.Writer, report)
	} else {
		err = report.print(c.App.Writer, c.App.ErrWriter)
	}
	if err != nil {
		return err
	}
	return report.verdict(broken, unreached, c.Bool("strict"))
}

// verdict is the command's exit.
func (r rulesReport) verdict(broken, unreached int, strict bool) error {
	switch {
	case broken > 0 && r.Failed > 0:
		return fmt.Errorf("%s cannot be used, and %s", screen.Count(broken, "file"), fails(r.Failed))
	case broken > 0:
		return fmt.Errorf("%s cannot be used", screen.Count(broken, "file"))
	case r.Failed > 0:
		return errors.New(fails(r.Failed))
	case strict && unreached > 0:
		return failedf("add an example for each, or leave out --strict", "no example reaches %s", screen.Count(unreached, "call"))
	}
	return nil
}

func fails(n int) string {
	if n == 1 {
		return "1 example fails"
	}
	return fmt.Sprintf("%d examples fail", n)
}

func testRulesFile(path string) rulesFile {
	f := rulesFile{File: path, Unbounded: []string{}, Examples: []so.Result{}, Unreached: []so.CallPlace{}}
	data, err := durable.ReadFile(path, so.MaxFileBytes)
	if err != nil {
		f.Error = err.Error()
		return f
	}
	rules, err := so.ParseRules(data, path)
	if err != nil {
		f.Error = err.Error()
		return f
	}
	f.Bounded = rules.Bounded()
	f.Unbounded = append(f.Unbounded, rules.Unbounded()...)
	f.Examples = rules.Test()
	f.Unreached = rules.Unreached(f.Examples)
	return f
}

// print writes the results; what only should be known is talk.
func (r rulesReport) print(out, talk io.Writer) error {
	w := &strings.Builder{}
	for _, f := range r.Files {
		fmt.Fprintln(w, f.File)
		if f.Error != "" {
			fmt.Fprintf(w, "  FAIL  it cannot be used\n%s\n", indented(f.Error))
			continue
		}
		for _, e := range f.Examples {
			printExample(w, e)
		}
		for _, c := range f.Unreached {
			fmt.Fprintf(talk, "moult: note: %s: no example reaches call %q\n", c.Place, c.Label)
		}
		if len(f.Unbounded) > 0 {
			fmt.Fprintf(talk, "moult: note: %s needs all of jq (%s), so it runs in a process of its own\n", f.File, strings.Join(f.Unbounded, ", "))
		}
	}
	fmt.Fprintf(w, "%s: %d ok, %d failed\n", screen.Count(r.OK+r.Failed, "example"), r.OK, r.Failed)
	_, err := io.WriteString(out, w.String())
	return err
}

func printExample(w io.Writer, e so.Result) {
	if e.OK() {
		fmt.Fprintf(w, "  ok    %s\n", e.Title)
		return
	}
	fmt.Fprintf(w, "  FAIL  %s  (%s, taken by %s)\n", e.Title, e.Place, e.Reaches)
	for _, d := range e.Differences {
		fmt.Fprintf(w, "        %s: %s\n          expected  %s\n          got       %s\n", d.Place, d.What, d.Expected, d.Got)
	}
}

func indented(text string) string {
	return "        " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n        ")
}

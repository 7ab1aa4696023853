package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/rehearse"
	"moult/cmd/moult/internal/screen"
	"moult/gossip/view"
)

func rehearseCommand() *cli.Command {
	return &cli.Command{
		Name:      "rehearse",
		Usage:     "try a release on a copy of the state of the agent's node, and keep nothing of it",
		ArgsUsage: "BUNDLE",
		Description: "The agent that is asked does what nodes do by themselves for a release with a rehearse\n" +
			"block: it copies the node's state, runs the transforms on the copy, starts the new software\n" +
			"on what came of them, waits until it is well, and runs the release's check, if it has one.\n" +
			"The release needs no rollout order, and no rehearse block. No other node hears of it, and\n" +
			"interrupted it ends. Not beside a rollout.",
		Flags:  []cli.Flag{agentFlag(), outputFlag()},
		Action: rehearseBundle,
	}
}

func rehearseBundle(c *cli.Context) error {
	path, err := oneArg(c, "the bundle's file")
	if err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return failedf("name the file that `moult bundle build` wrote", "rehearse: %w", err)
	}
	defer f.Close()
	api := client(c)
	defer api.Close()
	r, err := showing(screen.ProgressOn(c.App.ErrWriter), func(told func(control.RehearsalNews)) (control.Rehearsal, error) {
		return api.Rehearse(c.Context, f, told)
	})
	switch {
	case err != nil && c.Context.Err() != nil:
		return failedf("the agent ends it, and keeps nothing of it", "rehearse: interrupted")
	case err != nil:
		return err
	case asJSON:
		err = writeJSON(c.App.Writer, r)
	default:
		err = printRehearsal(c.App.Writer, r)
	}
	return errors.Join(err, rehearsalError(r))
}

// showing shows on a terminal what a rehearsal is at, and takes that away at its end.
func showing(on *screen.Progress, rehearse func(told func(control.RehearsalNews)) (control.Rehearsal, error)) (control.Rehearsal, error) {
	if !on.Shows() {
		return rehearse(nil)
	}
	defer on.Done()
	return rehearse(func(n control.RehearsalNews) {
		if n.Begins != "" {
			on.Show(n.Begins + " …")
		}
	})
}

// rehearsalError is why a rehearsal has not gone well; nil where it has.
func rehearsalError(r control.Rehearsal) error {
	why := screen.Line(r.Reason) // a program may have said it
	switch r.Outcome {
	case view.RehearsalOK:
		return nil
	case view.RehearsalFailed:
		return failedf("the node serves on, and no other has heard of the release: mend it, and build the next one", "release %d failed in its rehearsal on %s: %s", r.Release, r.Node, why)
	}
	return failedf("that says nothing against the release: mend it, and try again", "release %d could not be rehearsed on %s: %s", r.Release, r.Node, why)
}

func printRehearsal(out io.Writer, r control.Rehearsal) error {
	fmt.Fprintf(out, "release %d on a copy of the state of %s, which runs version %d\n", r.Release, r.Node, r.From)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range r.Stages {
		what := fmt.Sprintf("version %d", s.Version)
		switch s.Name {
		case rehearse.StageCopy:
			what = fmt.Sprintf("%d files, %s", s.Files, screen.Bytes(s.Bytes))
		case rehearse.StageTransform:
			what = fmt.Sprintf("to version %d, %d files, %s", s.Version, s.Files, screen.Bytes(s.Bytes))
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", s.Name, what, screen.Took(s.Took))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Outcome != view.RehearsalOK {
		return nil // which the error tells
	}
	without := ""
	if r.Reason != "" {
		without = ", but " + screen.Line(r.Reason)
	}
	_, err := fmt.Fprintf(out, "it went well, in %s%s\n", screen.Took(r.Took), without)
	return err
}

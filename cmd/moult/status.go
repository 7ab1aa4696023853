package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/agent/upgrade"
	"moult/cmd/moult/internal/screen"
	"moult/store/bundle"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show the cluster, one line per node",
		Flags: []cli.Flag{
			agentFlag(), outputFlag(), timeoutFlag(time.Hour),
			&cli.BoolFlag{Name: "w", Aliases: []string{"watch"}, Usage: "show it again and again, until interrupted"},
			&cli.BoolFlag{Name: "wait", Usage: "wait until the rollout is complete (exit 0), held or aborted (3), or the timeout (4)"},
			&cli.Uint64Flag{Name: "release", Usage: "with --wait: the `VERSION` to wait for; default: whatever is rolling"},
			&cli.BoolFlag{Name: "live", Usage: "ask the peers now, instead of showing what gossip brought"},
			&cli.BoolFlag{Name: "no-color", EnvVars: []string{"NO_COLOR"}, Usage: "no colour"},
		},
		Action: showStatus,
	}
}

func showStatus(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	p := statusPrinter{w: c.App.Writer, json: asJSON, color: !c.Bool("no-color") && screen.IsTerminal(c.App.Writer)}
	api := client(c)
	switch {
	case c.Bool("w"):
		return watchStatus(c.Context, api, p, c.Bool("live"))
	case c.Bool("wait"):
		timeout, err := positive(c, "timeout")
		if err != nil {
			return err
		}
		s, err := waitStatus(c, api, operator.Goal{Release: bundle.Version(c.Uint64("release"))}, timeout)
		if s != nil {
			if perr := p.print(*s); perr != nil {
				return perr
			}
		}
		return err
	}
	s, err := api.Status(c.Context, c.Bool("live"))
	if err != nil {
		return err
	}
	return p.print(s)
}

func watchStatus(ctx context.Context, api *control.Client, p statusPrinter, live bool) error {
	tick := time.NewTicker(operator.PollInterval)
	defer tick.Stop()
	for {
		s, err := api.Status(ctx, live)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if p.color {
			fmt.Fprint(p.w, "\x1b[H\x1b[2J")
		}
		if err := p.print(s); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// waitStatus is followRelease for a command, which shows on a terminal how far it is.
func waitStatus(c *cli.Context, api *control.Client, goal operator.Goal, timeout time.Duration) (*control.Status, error) {
	if !screen.IsTerminal(c.App.ErrWriter) {
		return followRelease(c.Context, api, goal, timeout, nil)
	}
	shown := ""
	last, err := followRelease(c.Context, api, goal, timeout, func(s control.Status) {
		if line := progressLine(s); line != shown {
			shown = line
			fmt.Fprintf(c.App.ErrWriter, "\r\x1b[K%s", line)
		}
	})
	if shown != "" {
		fmt.Fprint(c.App.ErrWriter, "\r\x1b[K") // what comes says it all
	}
	return last, err
}

// progressLine tells in one line how far a rollout is.
func progressLine(s control.Status) string {
	var sum control.ClassStatus
	for _, c := range s.Classes {
		sum.Total += c.Total
		sum.Settled += c.Settled
		sum.Down += c.Down
		sum.Waiting += c.Waiting
		sum.Held += c.Held
		sum.Unwell += c.Unwell
	}
	line := fmt.Sprintf("%s %s: %d of %d settled", releaseWords(s.Release), s.Release.State, sum.Settled, sum.Total)
	for _, part := range []struct {
		n    int
		word string
	}{{sum.Down, "down"}, {sum.Waiting, "waiting"}, {sum.Held, "held"}, {sum.Unwell, "not well"}} {
		if part.n > 0 {
			line += fmt.Sprintf(", %d %s", part.n, part.word)
		}
	}
	return line
}

// releaseWords says of a release which way its rollout goes.
func releaseWords(r control.ReleaseStatus) string {
	switch {
	case r.Back():
		return fmt.Sprintf("taking back release %d (turn %d)", r.Version, r.Turn)
	case r.Finalized:
		return fmt.Sprintf("release %d (finalized)", r.Version)
	case r.Turn > 0:
		return fmt.Sprintf("release %d again (turn %d)", r.Version, r.Turn)
	}
	return fmt.Sprintf("release %d", r.Version)
}

// followRelease waits until the release is complete, held or aborted, and shows each
// status to each, which may be nil. The last status seen is returned in any case.
func followRelease(user context.Context, api *control.Client, goal operator.Goal, timeout time.Duration, each func(control.Status)) (*control.Status, error) {
	ctx, cancel := context.WithTimeout(user, timeout)
	defer cancel()
	last, err := operator.Follow(ctx, api, goal, each)
	switch {
	case err == nil || ctx.Err() == nil || !errors.Is(err, ctx.Err()):
		return last, err
	case user.Err() != nil:
		return last, failedf("the rollout goes on by itself; `moult status --wait` waits again", "wait for the rollout: interrupted")
	}
	return last, &exitError{code: exitTimedOut, hint: "`moult why NODE` tells what a node waits for",
		err: fmt.Errorf("wait for the rollout: gave up after %v", timeout)}
}

// statusPrinter writes a Status for people or for programs.
type statusPrinter struct {
	w     io.Writer
	json  bool
	color bool
	clock func() time.Time // nil: the real one
}

func (p statusPrinter) now() time.Time {
	if p.clock != nil {
		return p.clock()
	}
	return time.Now()
}

func (p statusPrinter) print(s control.Status) error {
	if p.json {
		return writeJSON(p.w, s)
	}
	r := s.Release
	if r.State == control.StateNone {
		fmt.Fprintf(p.w, "cluster %s  no release yet\n", s.Cluster.Short())
	} else {
		fmt.Fprintf(p.w, "cluster %s  %s  %s", s.Cluster.Short(), releaseWords(r), p.paint(r.State))
		if r.Reason != "" {
			fmt.Fprintf(p.w, ": %s", screen.Line(r.Reason))
		}
		fmt.Fprintln(p.w)
	}
	for _, class := range slices.Sorted(maps.Keys(s.Classes)) {
		c := s.Classes[class]
		fmt.Fprintf(p.w, "class %s  %d of %d settled, %d not well, %d down (budget %d), %d waiting, %d held\n",
			class, c.Settled, c.Total, c.Unwell, c.Down, c.Budget, c.Waiting, c.Held)
	}
	for _, a := range s.Alarms {
		fmt.Fprintf(p.w, "%s %s\n", p.paint("alarm:"), screen.Line(a))
	}
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tID\tCLASS\tVERSION\tPHASE\tHEALTH\tSEEN\tREASON")
	for _, n := range s.Nodes {
		seen := "yes"
		if !n.Reachable {
			seen = "no"
			if !n.Away.IsZero() {
				seen = "no, for " + screen.For(p.now().Sub(n.Away))
			}
		}
		if n.Standing != "" {
			seen += ", " + n.Standing
		}
		v := fmt.Sprint(n.Version)
		if n.Target != 0 && n.Target != n.Version {
			v = fmt.Sprintf("%d→%d", n.Version, n.Target)
		}
		if n.Runs != 0 {
			v += fmt.Sprintf(" (runs %d)", n.Runs)
		}
		phase := n.Phase
		if n.Progress > 0 && n.Progress < 1 {
			phase += fmt.Sprintf(" %.0f%%", 100*n.Progress)
		}
		if !n.Since.IsZero() && !restful(n.Phase) {
			phase += ", " + screen.For(p.now().Sub(n.Since))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.ID.Short(), n.Class, v, phase, cmp.Or(n.Health, "-"), seen, screen.Short(n.Reason))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return p.local(s.Local)
}

// restful reports that nobody asks for how long a node is in a phase.
func restful(phase string) bool {
	return phase == string(upgrade.Current) || phase == string(upgrade.Settled)
}

func (p statusPrinter) paint(word string) string {
	if !p.color {
		return word
	}
	code := "33" // yellow: under way
	switch word {
	case control.StateComplete:
		code = "32"
	case control.StateHeld, control.StateAborted, control.ObjectBroken, "alarm:":
		code = "31"
	}
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}

func whyCommand() *cli.Command {
	return &cli.Command{
		Name:      "why",
		Usage:     "tell what a node waits for, and the command that would change it",
		ArgsUsage: "NODE",
		Flags:     []cli.Flag{agentFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			node, err := oneArg(c, "the name of a node or the beginning of its ID")
			if err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			why, err := client(c).Why(c.Context, node)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.App.Writer, why)
			}
			runs := ""
			if why.Runs != 0 {
				runs = fmt.Sprintf(" and runs version %d", why.Runs)
			}
			fmt.Fprintf(c.App.Writer, "%s (%s) is at version %d%s, %s\n", why.Node, why.ID.Short(), why.Version, runs, why.Phase)
			if why.Reason != "" {
				fmt.Fprintf(c.App.Writer, "because: %s\n", screen.Harmless(why.Reason))
			}
			if why.Command != "" {
				fmt.Fprintf(c.App.Writer, "to change it: %s\n", why.Command)
			}
			return nil
		},
	}
}

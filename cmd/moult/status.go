package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/cmd/moult/internal/screen"
	"moult/cmd/moult/internal/status"
	"moult/store/bundle"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show the cluster, one line per node",
		Description: "On a terminal it fits the columns: what is cut is told whole below. Where there are more\n" +
			"nodes than rows, they are counted, and those are listed that need a look.",
		Flags: []cli.Flag{
			agentFlag(), outputFlag(), timeoutFlag(time.Hour),
			&cli.BoolFlag{Name: "w", Aliases: []string{"watch"}, Usage: "show it as it changes, until interrupted"},
			&cli.BoolFlag{Name: "wait", Usage: "wait until the rollout is complete (exit 0), held or aborted (3), or the timeout (4)"},
			&cli.Uint64Flag{Name: "release", Usage: "with --wait: the `VERSION` to wait for; default: whatever is rolling"},
			&cli.BoolFlag{Name: "live", Usage: "ask the peers now, instead of showing what gossip brought"},
			&cli.BoolFlag{Name: "all", Usage: "every node, also where they are more than the terminal has rows"},
			noColorFlag(),
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
	p := statusPrinter{w: c.App.Writer, talk: c.App.ErrWriter, json: asJSON, all: c.Bool("all"), terminal: screen.TerminalOf(c.App.Writer, c.Bool("no-color"))}
	api := client(c)
	switch {
	case c.Bool("w"):
		return p.watch(c.Context, api, c.Bool("live"))
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

// waitStatus is followRelease for a command, which shows on a terminal how far it is.
func waitStatus(c *cli.Context, api *control.Client, goal operator.Goal, timeout time.Duration) (*control.Status, error) {
	shown := screen.ProgressOn(c.App.ErrWriter)
	defer shown.Done()
	return followRelease(c.Context, api, goal, timeout, func(s control.Status) { shown.Show(status.Progress(s)) })
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
	w        io.Writer
	talk     io.Writer // for what goes wrong while it is watched
	json     bool
	all      bool // nodes, however many
	terminal screen.Terminal
}

func (p statusPrinter) print(s control.Status) error {
	if p.json {
		return writeJSON(p.w, s)
	}
	width, height := p.terminal.Size()
	return p.write(status.Lines(s, status.Options{Width: width, Height: height, All: p.all, Color: p.terminal.Color, Now: time.Now()}))
}

func (p statusPrinter) write(lines []string) error {
	_, err := fmt.Fprintln(p.w, strings.Join(lines, "\n"))
	return err
}

// watch shows the status until ctx ends.
func (p statusPrinter) watch(ctx context.Context, api *control.Client, live bool) error {
	if p.terminal.Redraws && !p.json {
		return p.watchOnScreen(ctx, api, live)
	}
	return p.watchInLines(ctx, api, live)
}

// watchOnScreen takes the whole screen, and leaves the last status there.
func (p statusPrinter) watchOnScreen(ctx context.Context, api *control.Client, live bool) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shown := screen.Start(p.terminal, true)
	go func() {
		defer cancel() // nobody would see what comes
		select {
		case <-shown.Ended():
		case <-ctx.Done():
		}
	}()
	var last *control.Status
	var fault error
	defer func() {
		err = errors.Join(err, shown.Close())
		if last != nil {
			err = errors.Join(err, p.print(*last))
		}
		if fault != nil {
			p.tell(p.talk, fault)
		}
	}()
	return poll(ctx, api, live, func(s *control.Status, news error) error {
		if fault = news; s != nil {
			last = s
		}
		s = last
		shown.Show(func(width, height int) (lines []string) {
			if news != nil {
				var text strings.Builder
				p.tell(&text, news)
				lines = strings.Split(screen.Wrap(strings.TrimSpace(text.String()), width), "\n")
			}
			height = max(height-len(lines), 1)
			return append(lines, status.Lines(*s, status.Options{Width: width, Height: height, All: p.all, Color: p.terminal.Color, Now: time.Now()})...)
		})
		return nil
	})
}

// watchInLines writes the status anew: for programs each time, and for people when there is
// more news than that time has passed and calls were counted.
func (p statusPrinter) watchInLines(ctx context.Context, api *control.Client, live bool) error {
	last, failing := "", false
	return poll(ctx, api, live, func(s *control.Status, fault error) error {
		if fault != nil {
			if !failing {
				p.tell(p.talk, fault)
			}
			last, failing = "", true
			return nil
		}
		failing = false
		still := *s
		still.Local = control.Local{}
		news := strings.Join(status.Lines(still, status.Options{}), "\n")
		if news == last && !p.json {
			return nil
		}
		last = news
		return p.print(*s)
	})
}

// tell writes an error as the command that ends by it does.
func (p statusPrinter) tell(w io.Writer, err error) {
	var args []string
	if p.json {
		args = []string{"--output=json"}
	}
	tellError(w, args, err)
}

// poll asks for the status again and again, until ctx ends, and gives to each what it got:
// a status, or why there is none. Before the first status that ends it: there may never be one.
func poll(ctx context.Context, api *control.Client, live bool, each func(*control.Status, error) error) error {
	tick := time.NewTicker(operator.PollInterval)
	defer tick.Stop()
	for seen := false; ; {
		s, err := api.Status(ctx, live)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			seen = true
			err = each(&s, nil)
		case seen:
			err = each(nil, err)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
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
			if why.Agent != "" {
				fmt.Fprintf(c.App.Writer, "its agent: %s\n", screen.Line(why.Agent))
			}
			return nil
		},
	}
}

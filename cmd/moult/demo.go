package main

import (
	"context"
	"errors"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/cmd/moult/internal/demo"
	"moult/cmd/moult/internal/screen"
	"moult/cmd/moult/internal/web"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "show a whole upgrade on this machine: real agents, real nodes, clients that go on calling",
		Description: "Starts agents and nodes of a small key-value system as processes on the loopback\n" +
			"interface, lets clients of version 1 and of version 2 call every node all the time, injects\n" +
			"a signed release at one peer, and watches it take every node from version 1 to version 2.\n" +
			"Exit 0 only if no call failed, no more nodes were down than the budget, and all settled.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "nodes", Value: 5, Usage: "how many `N` nodes, 2 to 30"},
			&cli.Float64Flag{Name: "rate", Value: 100, Usage: "calls per second of each version's clients, all nodes together"},
			&cli.BoolFlag{Name: "bad", Usage: "a release that cannot read the nodes' data, which their rehearsals stop before any is down"},
			&cli.BoolFlag{Name: "revert", Usage: "then take the release back from all nodes, and go forward to it again"},
			&cli.BoolFlag{Name: "ui", Usage: "serve a page of it, as moult ui does: the upgrade begins when it is opened, and at the end the cluster stays until the demo is interrupted"},
			&cli.BoolFlag{Name: "keep", Usage: "keep the folder with everything in it"},
			outputFlag(), timeoutFlag(5 * time.Minute),
			noColorFlag(),
		},
		Action: showDemo,
	}
}

func showDemo(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	n := c.Int("nodes")
	if n < 2 || n > 30 {
		return misusef("", "--nodes %d: want 2 to 30", n)
	}
	if c.Bool("bad") && c.Bool("revert") {
		return misusef("", "--bad and --revert are two stories: ask for one")
	}
	ctx := c.Context
	if !signal.Ignored(syscall.SIGHUP) { // as it is under nohup
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP) // the terminal is closed: nothing is left running
		defer stop()
	}
	signal.Ignore(syscall.SIGPIPE) // nobody reads any more: that, too, must not end the demo before its processes
	cfg := demo.Config{
		Nodes: n, Rate: c.Float64("rate"), Keep: c.Bool("keep"), Bad: c.Bool("bad"), Revert: c.Bool("revert"), Build: buildOptions(),
		Talk: screen.Wrapping(c.App.ErrWriter), Timeout: c.Duration("timeout"),
		Told: func(r *demo.Report) error {
			if asJSON {
				return writeJSON(c.App.Writer, r)
			}
			return r.Print(screen.Wrapping(c.App.Writer))
		},
	}
	if !asJSON {
		cfg.Screen = screen.TerminalOf(c.App.ErrWriter, c.Bool("no-color"))
	}
	if c.Bool("ui") {
		cfg.Page = func(api *control.Client) (*web.Server, error) { return servePage("127.0.0.1:0", api, nil) }
	}
	report, err := demo.Run(ctx, cfg)
	if errors.Is(err, demo.ErrTimeout) {
		return &exitError{code: exitTimedOut, err: err, hint: "--timeout gives it longer; --keep keeps the logs"}
	}
	if err != nil {
		return err
	}
	return report.Verdict()
}

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/cmd/moult/internal/screen"
	"moult/store/bundle"
)

func injectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inject",
		Usage:     "hand a release to any peer, with a rollout order for the nodes that it knows",
		ArgsUsage: "BUNDLE",
		Description: "The bundle is checked here and again by the agent. With the operator's key in the trust\n" +
			"folder the rollout order is made from the agent's view, signed and handed over too;\n" +
			"with --no-order the release spreads, and nothing goes down until an order follows.",
		Flags: []cli.Flag{agentFlag(), trustFlag(), timeoutFlag(time.Hour),
			&cli.BoolFlag{Name: "no-order", Usage: "hand over the bundle alone"},
			&cli.BoolFlag{Name: "agents", Usage: "have the agents replaced, too, by the one that the release brings"},
			&cli.BoolFlag{Name: "wait", Usage: "follow the rollout to its end, as `moult status --wait` does"},
		},
		Action: inject,
	}
}

func inject(c *cli.Context) error {
	path, err := oneArg(c, "the bundle's file")
	if err != nil {
		return err
	}
	timeout, err := positive(c, "timeout")
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return failedf("name the file that `moult bundle build` wrote", "inject: %w", err)
	}
	defer f.Close()
	if c.Bool("agents") && c.Bool("no-order") {
		return misusef("leave one of them out", "that agents are replaced is part of the rollout order: --agents and --no-order exclude each other")
	}
	api := client(c)
	var signed *control.Signed
	var release *bundle.Manifest
	if !c.Bool("no-order") {
		if signed, release, err = prepareInjection(c, api, f); err != nil {
			return fmt.Errorf("inject: %w", err)
		}
	}
	if c.Bool("agents") && signed == nil { // its rollout has begun, so it is here
		if _, err := signOrder(c, operator.Agents(release)); err != nil || !c.Bool("wait") {
			return err
		}
		return waitAndShow(c, api, operator.Goal{Release: release.Version}, timeout)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	shown := screen.TransferOn(c.App.ErrWriter)
	accepted, err := api.Inject(c.Context, shown.Reading(f, "handing over", fi.Size()), signed)
	shown.Done()
	if err != nil {
		return err
	}
	say(c, "%s", accepted.Message)
	made(c, accepted.Version, accepted.Digest)
	if !c.Bool("wait") {
		return nil
	}
	return waitAndShow(c, api, operator.Goal{Release: accepted.Version}, timeout)
}

// waitAndShow follows a rollout to its end for a command that began it.
func waitAndShow(c *cli.Context, api *control.Client, goal operator.Goal, timeout time.Duration) error {
	s, err := waitStatus(c, api, goal, timeout)
	if o := outcomeOf(c); o != nil {
		o.Status = s
	} else if s != nil {
		if perr := (statusPrinter{w: c.App.Writer}).print(*s); perr != nil {
			return perr
		}
	}
	return err
}

// prepareInjection checks the bundle and makes what the operator must sign for it.
func prepareInjection(c *cli.Context, api *control.Client, f *os.File) (*control.Signed, *bundle.Manifest, error) {
	folder, err := openTrust(c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, failedf("name the trust folder with --trust, or leave the order to the operator with --no-order", "%w", err)
	}
	if err != nil {
		return nil, nil, err
	}
	defer folder.Close()
	b, err := checkBundle(f, folder.FirstRoot(), c.App.ErrWriter)
	if err != nil {
		return nil, nil, err
	}
	signed, notes, err := operator.New(folder).Begin(c.Context, api, b, c.Bool("agents"))
	printNotes(c, notes)
	return signed, b.Head(), err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
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
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	defer f.Close()
	api := client(c)
	signed, version, err := prepareInjection(c, api, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, 0); err != nil {
		return fmt.Errorf("inject %s: %w", path, err)
	}
	accepted, err := api.Inject(c.Context, f, signed)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "moult: %s\n", accepted.Message)
	if !c.Bool("wait") {
		return nil
	}
	s, err := waitStatus(c.Context, api, version, c.Duration("timeout"), nil)
	if s != nil {
		if perr := (statusPrinter{w: c.App.Writer}).print(*s); perr != nil {
			return perr
		}
	}
	return err
}

// prepareInjection checks the bundle and makes what the operator must sign
// for it; nil where no order is wanted.
func prepareInjection(c *cli.Context, api *control.Client, f *os.File) (*control.Signed, bundle.Version, error) {
	if c.Bool("no-order") {
		return nil, 0, nil
	}
	folder, err := openTrust(c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, misusef("name the trust folder with --trust, or leave the order to the operator with --no-order", "inject: %w", err)
	}
	if err != nil {
		return nil, 0, err
	}
	defer folder.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("inject: %w", err)
	}
	b, err := archive.Open(f, fi.Size(), folder.FirstRoot(), nil)
	if err != nil {
		return nil, 0, refusedf("", "inject %s: %w", f.Name(), err)
	}
	signed, err := signFirstOrder(c.Context, api, folder, b)
	if err != nil {
		return nil, 0, fmt.Errorf("inject %s: %w", f.Name(), err)
	}
	return signed, b.Head().Version, nil
}

// signFirstOrder makes and signs the order that begins the rollout of a
// bundle's release, on top of what the peer and the bundle hold.
func signFirstOrder(ctx context.Context, api *control.Client, folder *trust.Folder, b *archive.Bundle) (*control.Signed, error) {
	peer, err := api.Trust(ctx)
	if err != nil {
		return nil, err
	}
	if err := absorb(folder, peer.Set); err != nil {
		return nil, err
	}
	if _, err := folder.Absorb(b.Trust().Set()); err != nil {
		return nil, refusedf("", "%w", err)
	}
	status, err := api.Status(ctx, false)
	if err != nil {
		return nil, err
	}
	order, err := firstOrder(folder, b, peer, status)
	if err != nil {
		return nil, err
	}
	return addOrder(folder, order)
}

// firstOrder returns the order that begins the rollout of the bundle's
// release: the one that this folder has signed before, if it has (two
// injections of one bundle must not rank the nodes differently), else a new one.
func firstOrder(folder *trust.Folder, b *archive.Bundle, peer control.Trust, status control.Status) (*schedule.Order, error) {
	m := b.Head()
	if _, data, ok := folder.LastOrder(m.Version); ok {
		return schedule.ParseOrder(data)
	}
	var previous *schedule.Order
	for v, data := range peer.Orders {
		if v >= m.Version || (previous != nil && v < previous.Release) {
			continue
		}
		o, err := schedule.ParseOrder(data)
		if err != nil {
			return nil, err
		}
		previous = o
	}
	var nodes []schedule.Candidate
	for _, n := range status.Nodes {
		nodes = append(nodes, schedule.Candidate{ID: n.ID, Class: n.Class, Reachable: n.Reachable})
	}
	return schedule.Instantiate(m, bundle.Sum(b.ManifestBytes(m.Version)), previous, nodes)
}

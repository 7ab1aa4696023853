package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent"
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
	timeout, err := positive(c, "timeout")
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return failedf("name the file that `moult bundle build` wrote", "inject: %w", err)
	}
	defer f.Close()
	api := client(c)
	var signed *control.Signed
	if !c.Bool("no-order") {
		if signed, err = prepareInjection(c, api, f); err != nil {
			return fmt.Errorf("inject: %w", err)
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	accepted, err := api.Inject(c.Context, f, signed)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "moult: %s\n", accepted.Message)
	if !c.Bool("wait") {
		return nil
	}
	s, err := waitStatus(c.Context, api, accepted.Version, timeout, nil)
	if s != nil {
		if perr := (statusPrinter{w: c.App.Writer}).print(*s); perr != nil {
			return perr
		}
	}
	return err
}

// prepareInjection checks the bundle and makes what the operator must sign for it.
func prepareInjection(c *cli.Context, api *control.Client, f *os.File) (*control.Signed, error) {
	folder, err := openTrust(c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failedf("name the trust folder with --trust, or leave the order to the operator with --no-order", "%w", err)
	}
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	b, err := checkBundle(f, folder.FirstRoot())
	if err != nil {
		return nil, err
	}
	signed, err := signFirstOrder(c.Context, api, folder, b)
	if head := folder.Current().Head(); err == nil && head > b.Head().Version {
		fmt.Fprintf(c.App.ErrWriter, "moult: note: releases up to %d are signed in this trust folder, and the cluster hears of them now: inject their bundles next, in their order\n", head)
	}
	return signed, err
}

// signFirstOrder makes and signs the order that begins the rollout of a
// bundle's release, on top of what the peer and the bundle hold. Nothing is
// signed for a release that the peer would refuse: an order, once signed, binds.
func signFirstOrder(ctx context.Context, api *control.Client, folder *trust.Folder, b *archive.Bundle) (*control.Signed, error) {
	peer, err := api.Trust(ctx)
	if err != nil {
		return nil, err
	}
	status, err := api.Status(ctx, false)
	if err != nil {
		return nil, err
	}
	if err := fits(folder, b, peer, status); err != nil {
		return nil, err
	}
	if err := absorb(folder, peer.Set); err != nil {
		return nil, err
	}
	if _, err := folder.Absorb(b.Trust().Set()); err != nil {
		return nil, agent.Refusal(err)
	}
	order, err := firstOrder(folder, b, peer, status)
	if err != nil {
		return nil, err
	}
	return addOrder(folder, order)
}

// fits reports why the peer would refuse the bundle's release.
func fits(folder *trust.Folder, b *archive.Bundle, peer control.Trust, status control.Status) error {
	set, err := trust.ParseSet(peer.Set)
	if err != nil {
		return fmt.Errorf("read the agent's metadata: %w", err)
	}
	inForce, err := trust.Verify(folder.FirstRoot(), nil, set)
	if err != nil {
		return otherCluster(err)
	}
	m := b.Head()
	if err := agent.CheckRelease(inForce, m, bundle.Sum(b.ManifestBytes(m.Version))); err != nil {
		return err
	}
	nodes := map[bundle.Class][]bundle.Platform{}
	for _, n := range status.Nodes {
		nodes[n.Class] = append(nodes[n.Class], n.Platform)
	}
	return agent.CheckPlatforms(m, nodes)
}

// firstOrder returns the order that begins the rollout of the bundle's
// release: the one that this folder has signed before, if it has (two
// injections of one bundle must not rank the nodes differently), else a new one.
func firstOrder(folder *trust.Folder, b *archive.Bundle, peer control.Trust, status control.Status) (*schedule.Order, error) {
	m := b.Head()
	if _, data, ok := folder.LastOrder(m.Version); ok {
		return schedule.ParseOrder(data)
	}
	previous, err := orderBefore(folder, peer, m.Version)
	if err != nil {
		return nil, err
	}
	var nodes []schedule.Candidate
	for _, n := range status.Nodes {
		nodes = append(nodes, schedule.Candidate{ID: n.ID, Class: n.Class, Reachable: n.Reachable})
	}
	return schedule.Instantiate(m, bundle.Sum(b.ManifestBytes(m.Version)), previous, nodes)
}

// orderBefore returns the newest order of a release before n, nil where none
// was ever signed. What was signed decides, not what has arrived at the peer:
// nodes may be down under that order, so the next must name it and have them.
func orderBefore(folder *trust.Folder, peer control.Trust, n bundle.Version) (*schedule.Order, error) {
	inForce := folder.Current()
	var release bundle.Version
	for _, v := range inForce.Orders() {
		if v < n {
			release = v
		}
	}
	if release == 0 {
		return nil, nil
	}
	ref, _ := inForce.Order(release)
	data, ok := peer.Orders[release]
	if !ok || bundle.Sum(data) != ref.Digest {
		data, ok = folder.OrderInForce(release)
	}
	if !ok {
		return nil, refusedf("try again in a moment, or at another agent",
			"the rollout order of release %d (%s) has not arrived at this agent and was not signed in this trust folder; the order of release %d must follow it",
			release, ref.Digest.Short(), n)
	}
	return schedule.ParseOrder(data)
}

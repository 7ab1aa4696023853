package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"moult/agent"
	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// change makes the successor of a rollout order.
type change func(*schedule.Order) (*schedule.Order, error)

func orderFlags() []cli.Flag {
	return []cli.Flag{agentFlag(), trustFlag(),
		&cli.Uint64Flag{Name: "release", Usage: "the `VERSION` whose rollout is meant; default: the newest with an order"}}
}

func pauseCommand() *cli.Command {
	return wholeOrderCommand("pause", "let no further node go down", (*schedule.Order).Pause)
}

func resumeCommand() *cli.Command {
	return wholeOrderCommand("resume", "let a paused rollout go on", (*schedule.Order).Resume)
}

func abortCommand() *cli.Command {
	return wholeOrderCommand("abort", "end a rollout for good; nodes that have settled stay where they are", (*schedule.Order).Abort)
}

func skipCommand() *cli.Command {
	return nodeOrderCommand("skip", "give your word that a node is gone, so that the rollout goes on without it", (*schedule.Order).Skip)
}

func retryCommand() *cli.Command {
	return nodeOrderCommand("retry", "give a held, skipped or new node another place in the rollout", (*schedule.Order).Retry)
}

func startCommand() *cli.Command {
	return nodeOrderCommand("start", "let a node go down under a schedule with the manual strategy", (*schedule.Order).Start)
}

func wholeOrderCommand(name, usage string, f change) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, Flags: orderFlags(),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			release, err := signOrder(c, f)
			if err == nil && name != "resume" {
				noteComplete(c, release)
			}
			return err
		}}
}

func nodeOrderCommand(name, usage string, f func(*schedule.Order, bundle.Class, bundle.NodeID) (*schedule.Order, error)) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, ArgsUsage: "NODE", Flags: orderFlags(),
		Action: func(c *cli.Context) error {
			node, err := oneArg(c, "the name of a node or the beginning of its ID")
			if err != nil {
				return err
			}
			n, err := findNode(c.Context, client(c), node)
			if err != nil {
				return err
			}
			_, err = signOrder(c, func(o *schedule.Order) (*schedule.Order, error) { return f(o, n.Class, n.ID) })
			if err == nil && name == "skip" && n.Reachable {
				fmt.Fprintf(c.App.ErrWriter, "moult: note: %s is there: it stays at the version that it has; `moult retry %s` gives it a place again\n", n.Name, n.Name)
			}
			return err
		}}
}

// noteComplete tells that there was nothing left to pause or to abort.
func noteComplete(c *cli.Context, release bundle.Version) {
	s, err := client(c).Status(c.Context, false)
	if err == nil && s.Release.Version == release && s.Release.State == control.StateComplete {
		fmt.Fprintf(c.App.ErrWriter, "moult: note: every node has release %d already: this concerns only nodes that come later\n", release)
	}
}

// findNode finds a node by its name or by a unique prefix of its ID.
func findNode(ctx context.Context, api *control.Client, node string) (control.NodeStatus, error) {
	s, err := api.Status(ctx, false)
	if err != nil {
		return control.NodeStatus{}, err
	}
	var found []control.NodeStatus
	for _, n := range s.Nodes {
		if n.Name == node || strings.HasPrefix(n.ID.String(), strings.ToLower(node)) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return control.NodeStatus{}, misusef("see `moult status`", "no node is called %q", node)
	}
	return control.NodeStatus{}, misusef("give more digits of its ID, see `moult status`", "%q fits %d nodes", node, len(found))
}

// signOrder fetches what is in force from the agent, changes the order, signs
// the change with the operator's key and hands it to the agent. It returns the
// release whose order it was.
func signOrder(c *cli.Context, f change) (bundle.Version, error) {
	folder, err := openTrust(c)
	if err != nil {
		return 0, err
	}
	defer folder.Close()
	api := client(c)
	peer, err := api.Trust(c.Context)
	if err != nil {
		return 0, err
	}
	if err := absorb(folder, peer.Set); err != nil {
		return 0, err
	}
	release := bundle.Version(c.Uint64("release"))
	if release == 0 {
		for v := range peer.Orders {
			release = max(release, v)
		}
	}
	for v := range peer.Orders {
		if v > release && (c.Command.Name == "retry" || c.Command.Name == "start") {
			return 0, refusedf("leave out --release", "%s under the order of release %d: that of release %d is newer, and no node goes down under an older one", c.Command.Name, release, v)
		}
	}
	if release == 0 {
		return 0, refusedf("hand a release in with `moult inject`", "this agent knows of no rollout to %s", c.Command.Name)
	}
	old, err := orderInForce(folder, peer, release)
	if err != nil {
		return 0, err
	}
	next, err := f(old)
	if err != nil {
		return 0, refusedf("", "change the rollout order of release %d: %w", release, err)
	}
	signed, err := addOrder(folder, next)
	if err != nil {
		return 0, err
	}
	accepted, err := api.Accept(c.Context, *signed)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(c.App.ErrWriter, "moult: %s\n", accepted.Message)
	return release, nil
}

// orderInForce returns the newest order of a release that the peer has or that
// this folder has signed: an earlier command may have signed one that no peer
// has taken yet.
func orderInForce(folder *trust.Folder, peer control.Trust, release bundle.Version) (*schedule.Order, error) {
	data, ok := peer.Orders[release]
	if !ok {
		return nil, refusedf("hand one in with `moult inject`", "release %d has no rollout order at this agent", release)
	}
	o, err := schedule.ParseOrder(data)
	if err != nil {
		return nil, err
	}
	for {
		data, ok := folder.SignedOrder(release, o.Serial+1)
		if !ok {
			return o, nil
		}
		if o, err = schedule.ParseOrder(data); err != nil {
			return nil, err
		}
	}
}

// addOrder signs an order and returns what a peer needs.
func addOrder(folder *trust.Folder, o *schedule.Order) (*control.Signed, error) {
	data, err := schedule.MarshalOrder(o)
	if err != nil {
		return nil, err
	}
	v, err := folder.AddOrder(o.Release, o.Serial, data)
	if err != nil {
		return nil, err
	}
	set, err := v.Set().Marshal()
	if err != nil {
		return nil, err
	}
	return &control.Signed{Set: set, Orders: map[bundle.Version][]byte{o.Release: data}}, nil
}

// absorb takes a peer's metadata over into the folder where it is newer.
func absorb(folder *trust.Folder, set []byte) error {
	s, err := trust.ParseSet(set)
	if err != nil {
		return fmt.Errorf("read the agent's metadata: %w", err)
	}
	if _, err := folder.Absorb(s); err != nil {
		return otherCluster(err)
	}
	return nil
}

// otherCluster explains why a trust folder cannot use what an agent has: most
// often it is that of another cluster.
func otherCluster(err error) error {
	if errors.Is(err, trust.ErrUntrusted) {
		return refusedf("use the trust folder of the agent's cluster: `moult status` shows which it is", "the agent's metadata are not those of this trust folder: %w", err)
	}
	return agent.Refusal(err)
}

package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/membership"
	"moult/agent/operator"
	"moult/agent/schedule"
	"moult/store/bundle"
)

func orderFlags() []cli.Flag {
	return []cli.Flag{agentFlag(), trustFlag(),
		&cli.Uint64Flag{Name: "release", Usage: "the `VERSION` whose rollout is meant; default: the newest with an order"}}
}

func yesFlag() cli.Flag { return &cli.BoolFlag{Name: "yes", Usage: "do not ask"} }

func pauseCommand() *cli.Command {
	return &cli.Command{
		Name: "pause", Usage: "let no further node go down", Flags: append(orderFlags(), yesFlag()),
		Description: "Two orders that two operators have signed at once are joined by it.",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			change := operator.Pause()
			change.Confirm = func(o *schedule.Order, s control.Status) error { return confirmJoin(c, o, s) }
			release, err := signOrder(c, change)
			if err == nil {
				noteComplete(c, release)
			}
			return err
		},
	}
}

// confirmJoin has a person say that it is meant where what is joined is aborted, since one
// of the two is.
func confirmJoin(c *cli.Context, o *schedule.Order, s control.Status) error {
	what := operator.JoinWords(o, s)
	if what == "" {
		return nil
	}
	return confirm(c, what, fmt.Sprintf("moult pause --yes --release %d", o.Release), "until they are joined no node goes down by either")
}

func resumeCommand() *cli.Command {
	return &cli.Command{
		Name: "resume", Usage: "let a paused rollout go on", Flags: orderFlags(),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			_, err := signOrder(c, operator.Resume())
			return err
		},
	}
}

func abortCommand() *cli.Command {
	return &cli.Command{
		Name: "abort", Usage: "end a rollout for good; nodes that have settled stay where they are",
		Flags: append(orderFlags(), yesFlag()),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			change := operator.Abort()
			change.Confirm = func(o *schedule.Order, s control.Status) error { return confirmAbort(c, o, s) }
			_, err := signOrder(c, change)
			return err
		},
	}
}

// confirmAbort refuses to abort what is complete, and has a person say that the rest
// is meant.
func confirmAbort(c *cli.Context, o *schedule.Order, s control.Status) error {
	what, err := operator.AbortWords(o, s)
	if err != nil {
		return err
	}
	return confirm(c, what, fmt.Sprintf("moult abort --yes --release %d", o.Release),
		fmt.Sprintf("`moult pause --release %d` only stops it", o.Release))
}

func skipCommand() *cli.Command {
	return nodeOrderCommand("skip", "give your word that a node is gone, so that the rollout goes on without it")
}

func retryCommand() *cli.Command {
	return nodeOrderCommand("retry", "give a held, skipped or new node another place in the rollout, or another soak")
}

func startCommand() *cli.Command {
	return nodeOrderCommand("start", "let a node go down under a schedule with the manual strategy")
}

func nowCommand() *cli.Command {
	return nodeOrderCommand("now", "let a node, and those whose turn comes before it, go down outside their windows and before the classes that settle first")
}

func forgetCommand() *cli.Command {
	return &cli.Command{
		Name: "forget", Usage: "drop all that is known of a node that is gone, until it speaks again", ArgsUsage: "NODE",
		Description: "No rollout waits for the node, and no peer shows it any more. Its agent must have ended.\n" +
			"It is enrolled by name no more; should it come back, `moult member add` enrols it again.",
		Flags: []cli.Flag{agentFlag(), trustFlag()},
		Action: func(c *cli.Context) error {
			node, err := oneArg(c, "the name of a node or the beginning of its ID")
			if err != nil {
				return err
			}
			n, err := findNode(c.Context, client(c), node)
			if err != nil {
				return err
			}
			if n.Reachable {
				return control.Refused(fmt.Errorf("forget %s: its agent is reachable, so it would be known again at once", node),
					"end it with `moult leave` first, or wait until its peers have seen that it ended")
			}
			_, err = signOrder(c, operator.Change{
				Name:  "forget",
				Apply: func(o *schedule.Order) (*schedule.Order, error) { return o.Forget(n.ID, n.Number) },
				Members: func(m *membership.Membership, _ control.Status) (*membership.Membership, error) {
					return m.Drop(n.ID), nil
				},
			})
			return err
		},
	}
}

func nodeOrderCommand(name, usage string) *cli.Command {
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
			change, err := operator.ForNode(name, n, node)
			if err != nil {
				return err
			}
			next := "; `moult retry " + node + "` gives it a place again"
			apply := change.Apply
			change.Apply = func(o *schedule.Order) (*schedule.Order, error) {
				if o.State == schedule.StateAborted {
					next = " until a newer release"
				}
				return apply(o)
			}
			_, err = signOrder(c, change)
			if err == nil && name == "skip" && n.Reachable {
				printNotes(c, []string{n.Name + " is there: it stays at the version that it has" + next})
			}
			return err
		}}
}

// noteComplete tells that there was nothing left to pause.
func noteComplete(c *cli.Context, release bundle.Version) {
	s, err := client(c).Status(c.Context, false)
	if err == nil && s.Release.Version == release && s.Release.State == control.StateComplete {
		done := fmt.Sprintf("every node has release %d already", release)
		if s.Release.Back() {
			done = fmt.Sprintf("every node has taken release %d back already", release)
		}
		printNotes(c, []string{done + ": this concerns only nodes that come later"})
	}
}

// findNode finds a node by its name or by a unique prefix of its ID.
func findNode(ctx context.Context, api *control.Client, node string) (control.NodeStatus, error) {
	s, err := api.Status(ctx, false)
	if err != nil {
		return control.NodeStatus{}, err
	}
	return control.Find(s.Nodes, node, func(n control.NodeStatus) (string, bundle.NodeID) { return n.Name, n.ID })
}

// signOrder changes the order of the release that the flags name, or of the
// newest, and returns the release whose order it was.
func signOrder(c *cli.Context, change operator.Change) (bundle.Version, error) {
	folder, err := openTrust(c)
	if err != nil {
		return 0, err
	}
	defer folder.Close()
	release, accepted, err := operator.New(folder).Change(c.Context, client(c), bundle.Version(c.Uint64("release")), change)
	if err == nil {
		say(c, "%s", accepted.Message)
		made(c, release, bundle.Digest{})
	}
	return release, err
}

package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/agent/schedule"
	"moult/store/bundle"
)

func revertCommand() *cli.Command {
	return &cli.Command{
		Name: "revert", Usage: "take the newest release back, also from nodes that have settled at it", ArgsUsage: "[VERSION]",
		Description: "Each node goes back by the release's reverse transform, in its turn and within the budget,\n" +
			"and keeps all that callers have written meanwhile; what the old form cannot hold is kept aside.\n" +
			"--undo goes forward again, and brings that back. Other releases are not taken back.",
		Flags: []cli.Flag{agentFlag(), trustFlag(), timeoutFlag(time.Hour), yesFlag(),
			&cli.BoolFlag{Name: "undo", Usage: "go forward again to a release that is being taken back, or was"},
			&cli.UintSliceFlag{Name: "to", Usage: "go back also to this `VERSION`, which was taken back itself, or aborted"},
			&cli.BoolFlag{Name: "wait", Usage: "follow it to its end, as `moult status --wait` does"},
		},
		Action: revert,
	}
}

func revert(c *cli.Context) error {
	release, err := versionArg(c)
	if err != nil {
		return err
	}
	timeout, err := positive(c, "timeout")
	if err != nil {
		return err
	}
	if c.Bool("undo") && c.IsSet("to") {
		return misusef(seeHelp(c), "--undo goes forward, --to says where to go back to: give one of them")
	}
	folder, err := openTrust(c)
	if err != nil {
		return err
	}
	defer folder.Close()
	api, undo := client(c), c.Bool("undo")
	release, accepted, err := operator.New(folder).Revert(c.Context, api, operator.Reversal{
		Release: release, Undo: undo, To: versions(c.UintSlice("to")),
		Confirm: func(o *schedule.Order, n operator.Concerned) error { return confirmRevert(c, o, n, undo) },
	})
	if err != nil {
		return err
	}
	say(c, "%s", accepted.Message)
	made(c, release, bundle.Digest{})
	if !c.Bool("wait") {
		return nil
	}
	return waitAndShow(c, api, operator.Goal{Release: release, Back: !undo}, timeout)
}

// confirmRevert has a person say that it is meant, and tells who is left out.
func confirmRevert(c *cli.Context, o *schedule.Order, n operator.Concerned, undo bool) error {
	what := fmt.Sprintf("take release %d back: %d nodes go back to the version before it, by its reverse transform, and %d have not got it", o.Release, n.Go, n.Stay)
	if o.State == schedule.StateAborted && !undo {
		what += fmt.Sprintf(" (its rollout was aborted: going forward again after that would bring release %d to all of them)", o.Release)
	}
	unasked := fmt.Sprintf("moult revert --yes %d", o.Release)
	if undo {
		what = fmt.Sprintf("go forward again to release %d: %d nodes go, and %d have it", o.Release, n.Go, n.Stay)
		unasked = fmt.Sprintf("moult revert --yes --undo %d", o.Release)
	}
	if err := confirm(c, what, unasked, "`moult status` shows where its rollout is"); err != nil {
		return err
	}
	say(c, "%s", what)
	if n.Skipped > 0 {
		printNotes(c, []string{fmt.Sprintf("%d nodes that are skipped stay where they are; `moult retry NODE` takes one along", n.Skipped)})
	}
	return nil
}

func finalizeCommand() *cli.Command {
	return &cli.Command{
		Name: "finalize", Usage: "say that the newest release will not be taken back, for good", ArgsUsage: "[VERSION]",
		Description: "Refused before every node has said that it has settled. Each then runs the release's\n" +
			"finalized command, which tells the software that it may do what cannot be undone, and\n" +
			"gives up what only the way back would need.",
		Flags:  []cli.Flag{agentFlag(), trustFlag(), yesFlag()},
		Action: finalize,
	}
}

func finalize(c *cli.Context) error {
	release, err := versionArg(c)
	if err != nil {
		return err
	}
	folder, err := openTrust(c)
	if err != nil {
		return err
	}
	defer folder.Close()
	release, accepted, err := operator.New(folder).Finalize(c.Context, client(c), release, func(o *schedule.Order, s control.Status) error {
		unwell := 0
		for _, class := range s.Classes {
			unwell += class.Unwell
		}
		what := fmt.Sprintf("finalize release %d for good: nothing takes it back any more, and its nodes may do what cannot be undone", o.Release)
		if unwell > 0 {
			what += fmt.Sprintf("; %d of them are not well", unwell)
		}
		return confirm(c, what, fmt.Sprintf("moult finalize --yes %d", o.Release), "`moult status` shows how its nodes fare")
	})
	if err != nil {
		return err
	}
	say(c, "%s", accepted.Message)
	made(c, release, bundle.Digest{})
	return nil
}

// versions are numbers of releases; those that none can have are those of none.
func versions(numbers []uint) (all []bundle.Version) {
	for _, n := range numbers {
		all = append(all, bundle.Version(n))
	}
	return all
}

// versionArg reads the number of a release, if there is one: 0 for none.
func versionArg(c *cli.Context) (bundle.Version, error) {
	if c.NArg() == 0 {
		return 0, nil
	}
	text, err := oneArg(c, "the number of a release")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 || bundle.Version(n) > bundle.MaxVersion {
		return 0, misusef(seeHelp(c), "%q is no number of a release", text)
	}
	return bundle.Version(n), nil
}

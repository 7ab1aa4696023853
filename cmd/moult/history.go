package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/cmd/moult/internal/screen"
	"moult/store/bundle"
)

func historyCommand() *cli.Command {
	return &cli.Command{
		Name:      "history",
		Usage:     "tell what the agent's node went through, phase by phase",
		ArgsUsage: "[NODE]",
		Description: "It comes from the journal of the agent that is asked, which has it of its own node alone:\n" +
			"of another node ask that node's agent. The newest 1000 phases are shown.",
		Flags:  []cli.Flag{agentFlag(), outputFlag()},
		Action: showHistory,
	}
}

func showHistory(c *cli.Context) error {
	if c.NArg() > 1 {
		return misusef(seeHelp(c), "history: more than one node is named")
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	api := client(c)
	defer api.Close()
	if node := c.Args().First(); node != "" {
		if err := ownNode(c, api, node); err != nil {
			return err
		}
	}
	past, err := api.History(c.Context)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(c.App.Writer, past)
	}
	return printHistory(c.App.Writer, past)
}

// ownNode says of a node that is not the agent's what is known of it here.
func ownNode(c *cli.Context, api *control.Client, node string) error {
	s, err := api.Status(c.Context, false)
	if err != nil {
		return err
	}
	n, err := control.Find(s.Nodes, node, func(n control.NodeStatus) (string, bundle.NodeID) { return n.Name, n.ID })
	if err != nil {
		return err
	}
	info, err := api.Info(c.Context)
	if err != nil || info.ID == n.ID {
		return err
	}
	since := ""
	if !n.Since.IsZero() {
		since = " since " + n.Since.Local().Format(time.DateTime)
	}
	return failedf("ask that node's agent, on its machine or with --agent", "history: only the agent of %s knows its past; its record says that it is at version %d, %s%s", n.Name, n.Version, n.Phase, since)
}

func printHistory(out io.Writer, past control.History) error {
	if past.Older {
		fmt.Fprintf(out, "what came before is not kept any more\n")
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "SINCE\tPHASE\tVERSION\tRELEASE\tTOOK\tWHY\n")
	for _, p := range past.Phases {
		at, took, release := unknown, "-", "-"
		if !p.At.IsZero() {
			at = p.At.Local().Format(time.DateTime)
		}
		if p.Took > 0 {
			took = screen.Took(p.Took)
		}
		if p.Release != 0 {
			release = fmt.Sprint(p.Release)
		}
		if p.Back {
			release += " back"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", at, p.Phase, p.Version, release, took, screen.Line(p.Reason))
	}
	return w.Flush()
}

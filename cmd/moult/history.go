package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/cmd/moult/internal/screen"
)

func historyCommand() *cli.Command {
	return &cli.Command{
		Name:      "history",
		Usage:     "tell what a node went through, phase by phase",
		ArgsUsage: "[NODE]",
		Description: "Without NODE it comes from the journal of the agent that is asked: the phases of its node, with\n" +
			"what the software wrote last where that failed, and the signed documents that came into force,\n" +
			"with the keys that signed them; of each the newest 1000. Of another node it tells what this\n" +
			"agent saw in that node's records, the newest 30 phases: ask that node's agent for the rest.",
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
	var past control.History
	if node := c.Args().First(); node != "" {
		past, err = api.HistoryOf(c.Context, node)
	} else {
		past, err = api.History(c.Context)
	}
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(c.App.Writer, past)
	}
	return printHistory(c.App.Writer, past)
}

func printHistory(out io.Writer, past control.History) error {
	if past.Seen {
		since := ""
		if len(past.Phases) > 0 {
			since = " since " + moment(past.Phases[0].At)
		}
		fmt.Fprintf(out, "as the agent that was asked saw it in the records of %s%s: phases that it did not\nsee are missing, and times are by that node's clock; its own agent knows all\n", screen.Line(past.Node), since)
	}
	if past.Older {
		fmt.Fprintf(out, "what came before is not kept any more\n")
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "SINCE\tPHASE\tVERSION\tRELEASE\tTOOK\tWHY\n")
	for _, p := range past.Phases {
		took, release := "-", "-"
		if p.Took > 0 {
			took = screen.Took(p.Took)
		}
		if p.Release != 0 {
			release = fmt.Sprint(p.Release)
		}
		if p.Back {
			release += " back"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", moment(p.At), p.Phase, p.Version, release, took, screen.Line(p.Reason))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range past.Phases {
		if len(p.Log) > 0 {
			fmt.Fprintf(out, "\nwhat the software had written last at %s, before the node was %s:\n", moment(p.At), p.Phase)
		}
		for _, line := range p.Log {
			fmt.Fprintf(out, "  %s\n", screen.Harmless(line))
		}
	}
	return printSigned(out, past.Signed)
}

// printSigned tells which documents came into force, and by whose keys.
func printSigned(out io.Writer, signed []control.HistorySigned) error {
	if len(signed) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "VERIFIED\tSIGNED BY\tKEYS\tWHAT\n")
	for _, s := range signed {
		what := screen.Line(s.Kind)
		switch {
		case s.Kind == control.SignedMembers:
			what = "who belongs to the cluster"
		case s.Says != "":
			what = fmt.Sprintf("%s of release %d: %s", what, s.Release, screen.Line(s.Says))
		case s.Kind == control.SignedRelease:
			what = fmt.Sprintf("release %d, %s", s.Release, s.Digest.Short())
		default:
			what = fmt.Sprintf("%s of release %d", what, s.Release)
		}
		var keys []string
		for _, k := range s.Keys {
			keys = append(keys, screen.Line(k[:min(len(k), 8)]))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", moment(s.At), screen.Line(s.Role), strings.Join(keys, ", "), what)
	}
	return w.Flush()
}

// moment is a time for people.
func moment(t time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return t.Local().Format(time.DateTime)
}

package main

import (
	"fmt"
	"net"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
)

// ringMembers is `moult members -o json`.
type ringMembers struct {
	Members []control.Member `json:"members"`
}

func membersCommand() *cli.Command {
	return &cli.Command{
		Name:  "members",
		Usage: "list the peers of the ring",
		Flags: []cli.Flag{agentFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			members, err := client(c).Members(c.Context)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.App.Writer, ringMembers{members})
			}
			w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tID\tCLASS\tADDRESS\tSTATE\tPLATFORM")
			for _, m := range members {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.ID.Short(), m.Class, m.Address, m.State, m.Platform)
			}
			return w.Flush()
		},
	}
}

func joinCommand() *cli.Command {
	return &cli.Command{
		Name:      "join",
		Usage:     "make an agent join peers",
		ArgsUsage: "HOST:PORT…",
		Flags:     []cli.Flag{agentFlag()},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return misusef(seeHelp(c), "join takes the address of at least one peer")
			}
			for _, addr := range c.Args().Slice() {
				if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
					return misusef("a peer's address is its `bind` or `advertise`, such as 10.0.0.4:7946", "join %s: want HOST:PORT", addr)
				}
			}
			n, err := client(c).Join(c.Context, c.Args().Slice())
			if err != nil {
				return err
			}
			say(c, "joined by way of %d of %d peers", n, c.NArg())
			return nil
		},
	}
}

func leaveCommand() *cli.Command {
	return &cli.Command{
		Name:  "leave",
		Usage: "make an agent leave the ring and end; its node goes on",
		Flags: []cli.Flag{agentFlag()},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if err := client(c).Leave(c.Context); err != nil {
				return err
			}
			say(c, "the agent has left the ring; its node goes on")
			return nil
		},
	}
}

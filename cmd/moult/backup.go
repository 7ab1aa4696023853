package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/home"
)

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:  "restore",
		Usage: "say that a data folder is the node, though its peers know more of it",
		Description: "No agent may run on the data folder meanwhile. The next one takes back from its peers what\n" +
			"the node has signed since, before it begins anything.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Value: "/var/lib/moult", EnvVars: []string{"MOULT_AGENT"}, Usage: "the agent's data `FOLDER`"},
			&cli.BoolFlag{Name: "here", Usage: "the data folder as it is; no other that has its key is the node"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if !c.Bool("here") {
				return misusef("`moult restore --here` says that the data folder is the node", "what is to be restored?")
			}
			data := c.String("data")
			if _, err := home.ReadIdentity(data); err != nil {
				return failedf("--data names the data folder", "%w", err)
			}
			if err := home.Claim(data, "its operator has said that this data folder is the node", time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "the node is in %s: start its agent\n", data)
			return nil
		},
	}
}

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"moult/cmd/moult/internal/plan"
	"moult/store/bundle/trust"
	"moult/store/durable"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "tell what a release would do, and do nothing",
		ArgsUsage: "BUNDLE",
		Description: "Per class: what is transformed and how, and which calls between which versions would be\n" +
			"simulated, pass as they are, or be refused. With an agent to ask it also tells which nodes\n" +
			"run which version, and in which order they would go. Without --agent the agent of this\n" +
			"machine is asked if there is one.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", Usage: "the `FILE` of the cluster's first root; default: root.json of the trust folder"},
			trustFlag(), agentFlag(), outputFlag(),
		},
		Action: showPlan,
	}
}

// askTimeout bounds the questions to an agent that only add to what is told.
const askTimeout = 10 * time.Second

func showPlan(c *cli.Context) error {
	path, err := oneArg(c, "the bundle's file")
	if err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	root, err := planRoot(c)
	if err != nil {
		return err
	}
	b, f, err := openBundle(path, root, c.App.ErrWriter)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	defer f.Close()
	report, err := plan.Of(b)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.Context, askTimeout)
	defer cancel()
	api := client(c)
	defer api.Close()
	switch ring, err := plan.Ask(ctx, api, b, root); {
	case err == nil:
		report.Take(ring)
	case c.IsSet("agent"):
		return fmt.Errorf("plan: %w", err)
	default:
		fmt.Fprintf(c.App.ErrWriter, "moult: without an agent to ask (--agent), the nodes and their order are not shown: %v\n", err)
	}
	if asJSON {
		return writeJSON(c.App.Writer, report)
	}
	return report.Print(c.App.Writer)
}

// planRoot reads the cluster's first root.
func planRoot(c *cli.Context) ([]byte, error) {
	path := c.String("root")
	if path == "" {
		path = filepath.Join(c.String("trust"), "root.json")
	}
	root, err := durable.ReadFile(path, trust.MaxRootBytes)
	if err == nil {
		_, err = trust.Genesis(root)
	}
	if err != nil {
		return nil, failedf("name the root.json that `moult trust init` made with --root, or its folder with --trust",
			"plan: read the cluster's first root %s: %w", path, err)
	}
	return root, nil
}

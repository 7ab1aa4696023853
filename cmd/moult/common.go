package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/store/bundle/trust"
)

// Flags that several commands share. Each command lists what it takes: none
// is inherited.
func agentFlag() cli.Flag {
	return &cli.StringFlag{Name: "agent", Value: "/var/lib/moult", EnvVars: []string{"MOULT_AGENT"},
		Usage: "the agent to ask: its data `FOLDER`, its socket, or an http:// address"}
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "o", Aliases: []string{"output"}, Value: "text", Usage: "`FORMAT` of the output: text or json"}
}

func trustFlag() cli.Flag {
	return &cli.StringFlag{Name: "trust", Value: "trust", EnvVars: []string{"MOULT_TRUST"},
		Usage: "the trust `FOLDER` with the keys and metadata"}
}

func timeoutFlag(def time.Duration) cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: def, Usage: "give up after this `TIME`"}
}

func client(c *cli.Context) *control.Client { return control.NewClient(c.String("agent")) }

// wantsJSON reads the output flag.
func wantsJSON(c *cli.Context) (bool, error) {
	switch o := c.String("o"); o {
	case "json":
		return true, nil
	case "text":
		return false, nil
	default:
		return false, misusef("use -o text or -o json", "output format %q is not known", o)
	}
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// openTrust opens the trust folder that the flags name.
func openTrust(c *cli.Context) (*trust.Folder, error) {
	dir := c.String("trust")
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("open the trust folder: %w", err)
	}
	return trust.OpenFolder(dir, time.Now())
}

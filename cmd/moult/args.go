package main

import (
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func usageError(c *cli.Context, err error, _ bool) error {
	return misusef(seeHelp(c), "%v", err)
}

// commandName is what follows "moult" on the command line.
func commandName(c *cli.Context) string {
	return strings.TrimPrefix(c.Command.HelpName, "moult ")
}

func seeHelp(c *cli.Context) string {
	name := "moult"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return "see `" + name + " --help`"
}

// noArgs refuses arguments that a command does not take.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return misusef(seeHelp(c), "%s takes no argument, got %q", commandName(c), c.Args().First())
	}
	return nil
}

// oneArg returns the one argument that a command takes.
func oneArg(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", misusef(seeHelp(c), "%s takes one argument, %s; got %d (flags come before it)", commandName(c), what, c.NArg())
	}
	return c.Args().First(), nil
}

// positive reads a flag that is a time and must not be 0 or less.
func positive(c *cli.Context, flag string) (time.Duration, error) {
	d := c.Duration(flag)
	if d <= 0 {
		return 0, misusef(seeHelp(c), "--%s %v: want a time above 0, such as 30s or 24h", flag, d)
	}
	return d, nil
}

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"moult/docs"
)

func helpCommand() *cli.Command {
	return &cli.Command{
		Name: "help", Usage: "explain a topic or a command", ArgsUsage: "[TOPIC|COMMAND]",
		Description: "Topics are " + strings.Join(docs.Topics(), ", ") + ": pages of docs/, in Markdown. Of a command it says\n" +
			"what --help after it says.",
		Action: help,
	}
}

func help(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	name := c.Args().First()
	command := c.App.Command(name)
	text, err := docs.Topic(name)
	if command != nil && (err != nil || c.NArg() > 1) {
		return newApp(c.App.Writer, c.App.ErrWriter).RunContext(c.Context, append(append([]string{c.App.Name}, c.Args().Slice()...), "--help"))
	}
	if _, err := oneArg(c, "a topic or a command"); err != nil {
		return err
	}
	if command != nil {
		text += fmt.Sprintf("The commands of that name: moult %s --help\n", name)
	}
	if err != nil {
		return misusef(fmt.Sprintf("the topics are %s; `moult help` lists the commands", strings.Join(docs.Topics(), ", ")), "help: %w", err)
	}
	_, err = io.WriteString(c.App.Writer, text)
	return err
}

func manCommand() *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page, for man and groff",
		Description: "All commands and their flags: moult man > /usr/local/share/man/man1/moult.1",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			app := newApp(c.App.Writer, c.App.ErrWriter)
			tellUses("moult", app.Commands)
			page, err := app.ToManWithSection(1)
			if err != nil {
				return fmt.Errorf("make the manual page: %w", err)
			}
			_, err = io.WriteString(c.App.Writer, page)
			return err
		},
	}
}

// tellUses gives commands the text that the library puts into a manual.
func tellUses(of string, commands []*cli.Command) {
	for _, c := range commands {
		name := of + " " + c.Name
		c.UsageText = strings.TrimSpace(name + " [OPTIONS] " + c.ArgsUsage)
		if len(c.Subcommands) > 0 {
			c.UsageText = name + " COMMAND"
		}
		if c.Description != "" {
			c.UsageText += "\n\n" + c.Description
		}
		tellUses(name, c.Subcommands)
	}
}

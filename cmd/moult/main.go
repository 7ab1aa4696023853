// Command moult upgrades the software of a distributed system, peer by peer,
// while the system goes on serving. See the project's README.
//
// Rules of its user interface: standard output is data, standard error is
// talk; messages begin with "moult: ", in lower case, without a final period,
// and a hint stands on a line of its own. Exit codes: 0 done, 1 failed,
// 2 misuse, 3 held or refused, 4 timed out.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // windows name time zones, and small machines have no database of them

	"github.com/urfave/cli/v2"

	"moult/agent/account/bounds"
	"moult/agent/rehearse"
	"moult/cmd/moult/internal/demo"
	"moult/simlayer/host"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if code, ok := demo.SampleNode(args); ok {
		return code
	}
	if code, ok := bounded(args); ok {
		return code
	}
	if code, ok := objectHost(args); ok {
		return code
	}
	if code, ok := rehearsal(args); ok {
		return code
	}
	args, ok := onlyCompleted(args)
	if !ok {
		return exitDone
	}
	err := newApp(stdout, stderr).RunContext(ctx, args)
	if err == nil {
		return exitDone
	}
	return tellError(stderr, args, err)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:        "moult",
		Usage:       "upgrade a distributed system, peer by peer, while it serves",
		Writer:      stdout,
		ErrWriter:   stderr,
		HideHelp:    true,
		HideVersion: true,
		// Its name is the library's; other shells ask so, too.
		EnableBashCompletion: true,
		Flags:                []cli.Flag{helpFlag(), &cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version", DisableDefaultText: true}},
		ExitErrHandler:       func(*cli.Context, error) {},
		OnUsageError:         usageError,
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				return thisBuild().print(c.App.Writer)
			}
			if c.Args().Present() {
				return misusef("see `moult --help` for the commands", "there is no command %q", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			demoCommand(), trustCommand(), bundleCommand(), agentCommand(), injectCommand(), planCommand(), rehearseCommand(), simulateCommand(),
			statusCommand(), whyCommand(), historyCommand(), uiCommand(),
			rulesCommand(),
			pauseCommand(), resumeCommand(), abortCommand(), skipCommand(), forgetCommand(), retryCommand(), startCommand(), nowCommand(), revertCommand(), finalizeCommand(), withdrawCommand(),
			backupCommand(), restoreCommand(), adoptCommand(), memberCommand(), membersCommand(), joinCommand(), leaveCommand(), versionCommand(), helpCommand(), manCommand(), completionCommand(),
		},
	}
	setDefaults(app.Commands)
	return app
}

// helpFlag is each command's own: the one that the library shares between all
// commands is written to while arguments are parsed.
func helpFlag() cli.Flag {
	return &cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show help", DisableDefaultText: true}
}

func setDefaults(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = usageError
		c.HideHelp = true
		switch c.Name {
		case "agent": // it logs, see --log-json
		case "ui": // what it prints is an address
		case "help", "man", "completion": // text is all that they are for
		default:
			withOutcome(c)
		}
		c.Flags = append(c.Flags, helpFlag())
		c.BashComplete = complete(c)
		setDefaults(c.Subcommands)
		if len(c.Subcommands) > 0 && c.Action == nil {
			c.Action = func(ctx *cli.Context) error {
				if ctx.Args().Present() {
					return misusef(seeHelp(ctx), "there is no command \"%s %s\"", commandName(ctx), ctx.Args().First())
				}
				return cli.ShowSubcommandHelp(ctx)
			}
		}
	}
}

// objectHost makes this binary be the object host, or become an exec object, if
// that is what args ask for: agents start it so. It is not shown in the help.
func objectHost(args []string) (code int, ok bool) {
	if len(args) < 2 || args[1] != host.CommandName {
		return 0, false
	}
	if len(args) < 4 {
		fmt.Fprintf(os.Stderr, "moult: %s: agents start this command, to run simulation objects; it is of no use by itself\nhint: `moult rules test FILE` tries a rules file\n", host.CommandName)
		return exitMisuse, true
	}
	return host.Main(args[2:], os.Stderr), true
}

// bounded makes this binary become a program of a node, within what the operator has said.
func bounded(args []string) (code int, ok bool) {
	if len(args) < 2 || args[1] != bounds.CommandName {
		return 0, false
	}
	return bounds.Main(args[2:], os.Stderr), true
}

// rehearsal makes this binary be a process of a rehearsal, likewise.
func rehearsal(args []string) (code int, ok bool) {
	if len(args) < 2 || args[1] != rehearse.CommandName {
		return 0, false
	}
	return rehearse.Main(args[2:], os.Stdout, os.Stderr), true
}

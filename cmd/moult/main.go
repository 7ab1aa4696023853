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
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/cmd/moult/internal/demo"
)

// Exit codes.
const (
	exitDone     = 0
	exitFailed   = 1
	exitMisuse   = 2
	exitRefused  = 3
	exitTimedOut = 4
)

// version is set by the linker for released binaries.
var version = "dev"

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
	if code, ok := objectHost(args); ok {
		return code
	}
	err := newApp(stdout, stderr).RunContext(ctx, args)
	if err == nil {
		return exitDone
	}
	code, hint := classify(err)
	fmt.Fprintf(stderr, "moult: %s\n", strings.TrimSuffix(err.Error(), "."))
	if hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return code
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:           "moult",
		Usage:          "upgrade a distributed system, peer by peer, while it serves",
		Version:        version,
		Writer:         stdout,
		ErrWriter:      stderr,
		HideHelp:       true,
		HideVersion:    true,
		Flags:          []cli.Flag{helpFlag(), &cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version", DisableDefaultText: true}},
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				cli.ShowVersion(c)
				return nil
			}
			if c.Args().Present() {
				return misusef("see `moult --help` for the commands", "there is no command %q", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			demoCommand(), trustCommand(), bundleCommand(), agentCommand(), injectCommand(), planCommand(),
			statusCommand(), whyCommand(),
			rulesCommand(),
			pauseCommand(), resumeCommand(), abortCommand(), skipCommand(), retryCommand(), startCommand(),
			membersCommand(), joinCommand(), leaveCommand(),
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
		c.Flags = append(c.Flags, helpFlag())
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

// exitError is an error that chooses its own exit code and hint.
type exitError struct {
	code int
	hint string
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func misusef(hint, format string, args ...any) error {
	return &exitError{code: exitMisuse, hint: hint, err: fmt.Errorf(format, args...)}
}

// failedf is for errors that would not tell by themselves what to do next.
func failedf(hint, format string, args ...any) error {
	return &exitError{code: exitFailed, hint: hint, err: fmt.Errorf(format, args...)}
}

func refusedf(hint, format string, args ...any) error {
	return &exitError{code: exitRefused, hint: hint, err: fmt.Errorf(format, args...)}
}

// classify finds the exit code and the hint that an error asks for.
func classify(err error) (code int, hint string) {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code, e.hint
	}
	if e, ok := errors.AsType[*control.Error](err); ok {
		switch e.Kind {
		case control.KindMisuse:
			return exitMisuse, e.Hint
		case control.KindRefused:
			return exitRefused, e.Hint
		}
		return exitFailed, e.Hint
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitTimedOut, ""
	}
	return exitFailed, ""
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

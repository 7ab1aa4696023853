package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent"
	"moult/agent/config"
	"moult/agent/control"
	"moult/agent/fdstore"
	"moult/agent/selfupdate"
	"moult/cmd/moult/internal/unit"
	"moult/store/bundle"
	"moult/store/durable"
)

func agentCommand() *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "look after the node on this machine",
		Description: "The configuration file is described in docs/operations.md. Flags go over what it says.\n" +
			"The agent ends at SIGTERM or SIGINT; the node that it looks after goes on, and the next\n" +
			"agent with the same data folder takes it over.",
		Subcommands: []*cli.Command{replaceCommand()},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Value: "agent.hcl", Usage: "the configuration `FILE`"},
			&cli.StringFlag{Name: "name", Usage: "the node's `NAME`"},
			&cli.StringFlag{Name: "data", Usage: "the data `FOLDER`"},
			&cli.StringFlag{Name: "bind", Usage: "`HOST:PORT` for the ring, UDP and TCP"},
			&cli.StringSliceFlag{Name: "join", Usage: "`HOST:PORT` of a peer; may be given several times"},
			&cli.StringFlag{Name: selfupdate.CheckFlag, Hidden: true, Usage: "read this configuration and the copy of a store in `FOLDER`, say what was read, and end"},
			&cli.BoolFlag{Name: "forget", Usage: "take out of the kernel what an agent with this configuration left for its node, and end"},
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "debug, info, warn or error"},
			&cli.BoolFlag{Name: "log-json", Usage: "log as JSON"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if !runsAgents(runtime.GOOS) {
				return failedf("use the other commands here, with --agent and an http:// address", "moult agent runs on Linux and macOS, not on %s", runtime.GOOS)
			}
			cfg, err := agentConfig(c)
			if err != nil {
				return err
			}
			log, err := logger(c)
			if err != nil {
				return err
			}
			if c.Bool("forget") {
				return agent.Forget(cfg, log)
			}
			if copied := c.String(selfupdate.CheckFlag); copied != "" {
				return selfupdate.WriteReport(cfg, copied, c.App.Writer, log)
			}
			return runAgent(c.Context, cfg, log)
		},
	}
}

// runAgent runs the agent by the build that is to be it: this process becomes another build
// where that is so, and its parent while one is on trial.
func runAgent(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	builds, err := selfupdate.Start(cfg, log) // before the sockets are taken out of the environment
	if err != nil {
		return err
	}
	sockets := fdstore.Open(log)
	defer sockets.Close()
	err = agent.Run(ctx, cfg, builds, sockets, log)
	if sw, ok := errors.AsType[*selfupdate.Switch](err); ok {
		return builds.Run(ctx, sw, cfg, sockets, os.Args[1:])
	}
	if err == nil {
		builds.Up() // it was told to end
	}
	return err
}

func replaceCommand() *cli.Command {
	return &cli.Command{
		Name:      "replace",
		Usage:     "replace the agent of this machine by another build of moult, if that is well",
		ArgsUsage: "FILE",
		Description: "The running agent copies the file, has it read a copy of what the agent goes on from, and\n" +
			"then tries it in its own place. It is well when it answers as the node that it was, with the\n" +
			"peers that were there, and leaves the journal whole. If not, the agent of before goes on. The\n" +
			"node's software serves all the while.",
		Flags: []cli.Flag{agentFlag(), outputFlag(),
			&cli.DurationFlag{Name: "deadline", Value: selfupdate.DefaultDeadline, Usage: "put it back if it is not well within this `TIME`"}},
		Action: func(c *cli.Context) error {
			file, err := oneArg(c, "FILE")
			if err != nil {
				return err
			}
			return replaceAgent(c, file)
		},
	}
}

// replaced is `moult agent replace -o json`.
type replaced struct {
	Digest bundle.Digest `json:"digest"`
	// Outcome is "replaced", "runs already" or "put back"; Reason says why it was put back.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

const outcomePutBack = "put back"

func replaceAgent(c *cli.Context, file string) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return failedf("name the program", "replace the agent: %w", err)
	}
	defer f.Close()
	api := client(c)
	defer api.Close()
	r, err := api.Replace(c.Context, f, c.Duration("deadline"))
	if err != nil {
		return err
	}
	out := replaced{Digest: r.Digest, Outcome: "runs already"}
	if !r.Runs {
		if out, err = followReplacing(c.Context, api, r); err != nil {
			return err
		}
	}
	if out.Outcome == outcomePutBack {
		err = &exitError{code: exitRefused, err: fmt.Errorf("build %s was put back, and the agent of before goes on: %s", r.Digest.Short(), out.Reason)}
	}
	if asJSON {
		return errors.Join(writeJSON(c.App.Writer, out), err)
	}
	if err == nil {
		fmt.Fprintf(c.App.Writer, "build %s: %s\n", r.Digest.Short(), out.Outcome)
	}
	return err
}

// followReplacing waits until it is known what becomes of a build. Between the agents nobody
// answers.
func followReplacing(ctx context.Context, api *control.Client, r control.Replacing) (out replaced, err error) {
	const between = time.Minute // for agents to end, and to begin
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.Deadline)+3*between)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	out.Digest = r.Digest
	for {
		info, err := api.Info(ctx)
		if err == nil && !info.Agent.OnTrial && info.Agent.Digest == r.Digest {
			out.Outcome = "replaced"
			return out, nil
		}
		for _, failed := range info.Agent.Failed {
			if err == nil && failed.Digest == r.Digest && !info.Agent.OnTrial && failed.At.After(r.Begun) {
				out.Outcome, out.Reason = outcomePutBack, failed.Reason
				return out, nil
			}
		}
		select {
		case <-ctx.Done():
			return out, fmt.Errorf("wait for the trial of build %s: %w; `moult status` shows what became of it", r.Digest.Short(), ctx.Err())
		case <-tick.C:
		}
	}
}

// runsAgents reports whether agents run on an operating system. All other commands run
// everywhere.
func runsAgents(system string) bool { return system == "linux" || system == "darwin" }

// agentConfig reads the file and puts the flags over it. Paths in flags are
// taken from the current folder.
func agentConfig(c *cli.Context) (config.Config, error) {
	cfg, err := config.Load(c.String("config"))
	if err != nil {
		return cfg, &exitError{code: exitMisuse, err: fmt.Errorf("read the agent's configuration: %w", err),
			hint: "docs/operations.md describes the file; --config names another one"}
	}
	for flag, to := range map[string]*string{"name": &cfg.Name, "data": &cfg.Data, "bind": &cfg.Bind} {
		if c.IsSet(flag) {
			*to = c.String(flag)
		}
	}
	if c.IsSet("join") {
		cfg.Join = c.StringSlice("join")
	}
	if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return cfg, err
	}
	if err := cfg.Validate(); err != nil {
		return cfg, &exitError{code: exitMisuse, err: fmt.Errorf("%s: %w", c.String("config"), err)}
	}
	return cfg, nil
}

func logger(c *cli.Context) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, misusef("use debug, info, warn or error", "log level %q is not known", c.String("log-level"))
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Bool("log-json") {
		return slog.New(slog.NewJSONHandler(c.App.ErrWriter, o)), nil
	}
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, o)), nil
}

func adoptCommand() *cli.Command {
	return &cli.Command{
		Name: "adopt", Usage: "write an agent.hcl from the systemd unit of software that runs today",
		Description: "The unit is read with its drop-ins: command, user, environment, limits, state and times go\n" +
			"into the file. What agent.hcl has nothing like is told, line by line, and stands at the head\n" +
			"of the file, which is to be read before an agent is started with it. Nothing is started or stopped.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "unit", Usage: "the `NAME` of the unit, such as nginx.service; with --unit-file, what the file is one of (NAME@INSTANCE.service)"},
			&cli.StringFlag{Name: "unit-file", Usage: "the unit's `FILE`, where systemd does not run; drop-ins are found beside it"},
			&cli.StringSliceFlag{Name: "service", Usage: "where callers reach the software, as `NAME=HOST:PORT`; may be given several times"},
			&cli.StringFlag{Name: "state", Usage: "the `FOLDER` of its state; default: the unit's first StateDirectory="},
			&cli.StringFlag{Name: "class", Usage: "the `CLASS` of the software; default: the unit's name"},
			&cli.Uint64Flag{Name: "number", Value: 1, Usage: "the `VERSION` that runs"},
			&cli.StringFlag{Name: "root", Value: "root.json", Usage: "the `FILE` of the cluster's first root, from the folder of --out"},
			&cli.StringFlag{Name: "gossip-key", Value: "gossip.key", Usage: "the `FILE` of the ring's secret, likewise"},
			&cli.StringFlag{Name: "out", Aliases: []string{"o"}, Value: "agent.hcl", Usage: "the `FILE` to write; one that is there stays as it is"},
		},
		Action: adopt,
	}
}

func adopt(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	o := unit.Options{Class: c.String("class"), Root: c.String("root"), Key: c.String("gossip-key"), State: c.String("state"), Version: c.Uint64("number"), Services: map[string]string{}}
	for _, one := range c.StringSlice("service") {
		name, addr, ok := strings.Cut(one, "=")
		if _, _, err := net.SplitHostPort(addr); !ok || err != nil {
			return misusef("", "--service %s: want NAME=HOST:PORT, such as api=10.0.0.5:7000", one)
		}
		o.Services[name] = addr
	}
	var source unit.Source
	var err error
	switch file, name := c.String("unit-file"), c.String("unit"); {
	case file != "":
		source, err = unit.FromFile(file, name)
	case name != "":
		source, err = unit.Find(c.Context, name)
	default:
		return misusef("such as `moult adopt --unit nginx.service --service web=10.0.0.5:80`", "adopt takes a unit: --unit NAME, or --unit-file FILE")
	}
	if err != nil {
		return err
	}
	made, err := unit.Convert(source, o)
	if err != nil {
		return err
	}
	out := c.String("out")
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		return failedf("name another by --out, or move it away", "%s is there already (or cannot be looked at), and is left as it is", out)
	}
	if err := durable.WriteFile(out, []byte(made.Text), 0o600); err != nil { // an environment may have secrets
		return err
	}
	printNotes(c, made.Notes)
	cfg, err := config.Load(out)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return failedf("mend "+out+" by hand, or say more by flags", "%s is written, and an agent cannot work with it yet: %v", out, err)
	}
	say(c, "wrote %s from %s; not carried over: %d", out, strings.Join(source.Files, ", "), len(made.Notes))
	say(c, "only you can read it: `chown moult %s` for the packages' agent, which is user moult", out)
	say(c, "read it, then: `systemctl disable --now %s`, and start the agent with it, which copies the state and starts the software", source.Name)
	return nil
}

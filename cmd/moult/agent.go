package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"

	"github.com/urfave/cli/v2"

	"moult/agent"
	"moult/agent/config"
	"moult/agent/fdstore"
)

func agentCommand() *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "look after the node on this machine",
		Description: "The configuration file is described in docs/operations.md. Flags go over what it says.\n" +
			"The agent ends at SIGTERM or SIGINT; the node that it looks after goes on, and the next\n" +
			"agent with the same data folder takes it over.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Value: "agent.hcl", Usage: "the configuration `FILE`"},
			&cli.StringFlag{Name: "name", Usage: "the node's `NAME`"},
			&cli.StringFlag{Name: "data", Usage: "the data `FOLDER`"},
			&cli.StringFlag{Name: "bind", Usage: "`HOST:PORT` for the ring, UDP and TCP"},
			&cli.StringSliceFlag{Name: "join", Usage: "`HOST:PORT` of a peer; may be given several times"},
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
			sockets := fdstore.Open(log)
			defer sockets.Close()
			return agent.Run(c.Context, cfg, sockets, log)
		},
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

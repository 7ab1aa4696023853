package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/backup"
	"moult/agent/control"
	"moult/agent/home"
	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/store"
	"moult/transforms"
)

func dataFlag() cli.Flag {
	return &cli.StringFlag{Name: "data", Value: "/var/lib/moult", EnvVars: []string{"MOULT_AGENT"}, Usage: "the agent's data `FOLDER`"}
}

func backupCommand() *cli.Command {
	return &cli.Command{
		Name:      "backup",
		Usage:     "save this machine's node in a new folder",
		ArgsUsage: "FOLDER",
		Description: "A running agent saves its node itself, with the state as the release's snapshot program\n" +
			"copies it. Where no agent runs, and the software has ended, all is copied as it lies there.\n" +
			"Keep the folder as you keep a key: the node's is in it.",
		Flags: []cli.Flag{dataFlag(), &cli.BoolFlag{Name: "stateless", Usage: "leave the state of the software out"}},
		Action: func(c *cli.Context) error {
			to, err := oneArg(c, "FOLDER")
			if err == nil {
				to, err = filepath.Abs(to)
			}
			if err != nil {
				return err
			}
			data, err := dataFolder(c)
			if err != nil {
				return err
			}
			if err := backUp(c.Context, data, to, c.Bool("stateless")); err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "%s\n", to)
			return nil
		},
	}
}

// dataFolder is that of dataFlag: its software is known by the whole path.
func dataFolder(c *cli.Context) (string, error) { return filepath.Abs(c.String("data")) }

func backUp(ctx context.Context, data, to string, stateless bool) error {
	err := store.WhileClosed(data, func() error {
		src, err := ended(data, stateless)
		if err != nil {
			return err
		}
		return backup.Make(ctx, src, to)
	})
	if !errors.Is(err, store.ErrInUse) {
		return err
	}
	api := control.NewClient(data)
	defer api.Close()
	return api.Backup(ctx, control.BackupRequest{To: to, Stateless: stateless})
}

// ended is a node whose agent and software have ended.
func ended(data string, stateless bool) (src backup.Source, err error) {
	if left := software.Find(data, slog.New(slog.DiscardHandler)); len(left.Processes()) > 0 && !stateless {
		return src, failedf("start the agent, and type it again; or end the software, or use --stateless", "back up: the node's software runs without its agent, and writes to its state")
	}
	key, err := home.ReadIdentity(data)
	if err != nil {
		return src, err
	}
	src.Data, src.Node = data, home.NodeOf(key)
	src.Store = func(to string) error { return copyWhole(data, to) }
	slots := filepath.Join(data, "state")
	opened, err := transforms.OpenSlots(slots)
	if err != nil {
		return src, err
	}
	live, there, err := opened.Current()
	if err != nil || !there {
		return src, err
	}
	src.Version = live
	if !stateless {
		src.State = func(ctx context.Context, to string) error {
			_, err := transforms.Runner{}.Run(ctx, transforms.Job{Old: filepath.Join(slots, fmt.Sprint(live)), New: to})
			return err
		}
	}
	return src, nil
}

// copyWhole copies the store of a node whose agent has ended, unless that was amid an upgrade.
// What is opened for that is a copy of its own: it is written to.
func copyWhole(data, to string) error {
	look := to + ".look"
	err := store.CopyClosed(data, look)
	if err == nil {
		var phase upgrade.Phase
		if phase, err = home.PhaseOf(look); err == nil {
			err = backup.Whole(phase, false, "start its agent, and type it again when the rollout has ended: `moult status --wait`")
		}
	}
	if err = errors.Join(err, os.RemoveAll(look)); err != nil {
		return err
	}
	return store.CopyClosed(data, to)
}

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "put a backup into a data folder, or say that one is the node though its peers know more",
		ArgsUsage: "[BACKUP]",
		Description: "No agent may run on the data folder meanwhile. The next one takes back from its peers what\n" +
			"the node has signed since, before it begins anything.",
		Flags: []cli.Flag{dataFlag(), &cli.BoolFlag{Name: "here", Usage: "the data folder as it is; no other that has its key is the node"}},
		Action: func(c *cli.Context) error {
			data, err := dataFolder(c)
			if err != nil {
				return err
			}
			if c.Bool("here") {
				if err := noArgs(c); err != nil {
					return err
				}
				if _, err := home.ReadIdentity(data); err != nil {
					return failedf("--data names the data folder", "%w", err)
				}
				if err := home.Claim(data, "its operator has said that this data folder is the node", time.Now()); err != nil {
					return err
				}
				fmt.Fprintf(c.App.Writer, "the node is in %s: start its agent\n", data)
				return nil
			}
			from, err := oneArg(c, "BACKUP")
			if err == nil {
				from, err = filepath.Abs(from)
			}
			if err != nil {
				return err
			}
			about, err := backup.Put(c.Context, from, data, time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "node %s, as of %s, is in %s: start its agent\n", about.Node.Short(), about.At.Format(time.DateTime), data)
			if about.Stateless && about.Version != 0 {
				printNotes(c, []string{fmt.Sprintf("the state of the software is not in the backup: put it into %s first, and `ln -s %d current` beside it", filepath.Join(data, "state", fmt.Sprint(about.Version)), about.Version)})
			}
			return nil
		},
	}
}

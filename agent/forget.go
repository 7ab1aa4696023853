package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"moult/simlayer/attach"
	"moult/simlayer/connect"
)

// Forget takes out of the kernel what an agent has left there for its node: what
// steers callers to it, and its cgroup with what rewrites its calls. They outlive
// the agent on purpose, so nobody else takes them out. The agent must have ended,
// and its software too. Nothing else is touched; where there is nothing, nothing is
// done.
func Forget(cfg Config, log *slog.Logger) (err error) {
	if _, err := os.Stat(filepath.Join(cfg.Data, identityFile)); err != nil {
		return fmt.Errorf("forget the node of data folder %s: it has no identity, so no agent ran there: %w", cfg.Data, err)
	}
	a := &Agent{cfg: cfg, log: log}
	opened := &closers{}
	defer func() { err = errors.Join(err, opened.close()) }()
	if err := a.openData(opened); err != nil { // it holds the folder's lock
		return fmt.Errorf("forget the node: %w", err)
	}
	if pids := newSoftware(a).runs(); len(pids) > 0 {
		return fmt.Errorf("forget the node: its software runs, with process ID %d: stop it first", pids[0])
	}
	dir, err := a.pinned()
	if dir != "" && err == nil {
		err = a.unpin(dir)
	}
	if err != nil {
		return err
	}
	if err := connect.RemoveCgroup(connect.Options{Name: a.pinName()}); err != nil {
		return fmt.Errorf("forget the node: %w", err)
	}
	return nil
}

// pinned returns the folder of what is pinned for this node; "" where nothing is.
func (a *Agent) pinned() (string, error) {
	bpffs, err := attach.FindBPFFS()
	switch {
	case errors.Is(err, attach.ErrNotFound) || errors.Is(err, attach.ErrNotSupported):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("forget the node: %w", err)
	}
	dir := filepath.Join(bpffs, a.pinFolder())
	_, err = os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("forget the node: %w", err)
	}
	return dir, nil
}

func (a *Agent) unpin(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("forget the node: %w", err)
	}
	for _, e := range entries {
		if e.Name() == steerFolder {
			s, err := attach.OpenSteer(filepath.Join(dir, steerFolder), attach.Options{Logger: a.log})
			if err == nil {
				err = errors.Join(s.Remove(), s.Close())
			}
			if err != nil {
				return fmt.Errorf("forget the node: %w", err)
			}
			continue
		}
		c, err := connect.Open(connect.Options{Dir: dir, Name: a.pinName()})
		if err == nil {
			err = errors.Join(c.Remove(), c.Close())
		}
		if err != nil {
			return fmt.Errorf("forget the node: %w", err)
		}
	}
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("forget the node: %w", err)
	}
	a.log.Info("forgot the node", "id", a.id.Short(), "pins", dir)
	return nil
}

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"moult/agent/software"
	"moult/simlayer/attach"
	"moult/simlayer/connect"
	"moult/store/bundle"
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
	opened := &closers{}
	defer func() { err = errors.Join(err, opened.close()) }()
	f, err := openFolder(cfg, log, opened) // it holds the folder's lock
	if err != nil {
		return fmt.Errorf("forget the node: %w", err)
	}
	if pids := software.Find(cfg.Data, log).Processes(); len(pids) > 0 {
		return fmt.Errorf("forget the node: its software runs, with process ID %d: stop it first", pids[0])
	}
	if err := removeFromKernel(f.id, log); err != nil {
		return fmt.Errorf("forget the node: %w", err)
	}
	return nil
}

// removeFromKernel takes out of the kernel what outlives the agent of a node.
func removeFromKernel(id bundle.NodeID, log *slog.Logger) error {
	dir, err := pinned(id)
	if err != nil {
		return err
	}
	if dir != "" {
		if err := unpin(dir, id, log); err != nil {
			return err
		}
		log.Info("forgot the node", "id", id.Short(), "pins", dir)
	}
	return connect.RemoveCgroup(connect.Options{Name: kernelName(id)})
}

// pinned returns the folder of what is pinned for a node; "" where nothing is.
func pinned(id bundle.NodeID) (string, error) {
	bpffs, err := attach.FindBPFFS()
	switch {
	case errors.Is(err, attach.ErrNotFound) || errors.Is(err, attach.ErrNotSupported):
		return "", nil
	case err != nil:
		return "", err
	}
	dir := filepath.Join(bpffs, pinFolder(id))
	_, err = os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	return dir, nil
}

func unpin(dir string, id bundle.NodeID, log *slog.Logger) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == steerFolder {
			s, err := attach.OpenSteer(filepath.Join(dir, steerFolder), attach.Options{Logger: log})
			if err == nil {
				err = errors.Join(s.Remove(), s.Close())
			}
			if err != nil {
				return err
			}
			continue
		}
		c, err := connect.Open(connect.Options{Dir: dir, Name: kernelName(id)})
		if err == nil {
			err = errors.Join(c.Remove(), c.Close())
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

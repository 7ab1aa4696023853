package ways

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"moult/simlayer/attach"
	"moult/simlayer/connect"
	"moult/store/bundle"
)

// KernelName is a node's own in the names of cgroups and pins. It is short, since
// these are.
func KernelName(node bundle.NodeID) string { return node.String()[:16] }

func pinFolder(node bundle.NodeID) string { return "moult_" + KernelName(node) }

// steerFolder is within it.
const steerFolder = "steer"

// Remove takes out of the kernel what an agent has left there for its node: what
// steers callers to it, and its cgroup with what rewrites its calls. The agent and
// the software must have ended. Where there is nothing, nothing is done.
func Remove(node bundle.NodeID, log *slog.Logger) error {
	dir, err := pinned(node)
	if err != nil {
		return err
	}
	if dir != "" {
		if err := unpin(dir, node, log); err != nil {
			return err
		}
		log.Info("took out of the kernel what steers and labels calls", "node", node.Short(), "pins", dir)
	}
	return connect.RemoveCgroup(connect.Options{Name: KernelName(node)})
}

// pinned returns the folder of what is pinned for a node; "" where nothing is.
func pinned(node bundle.NodeID) (string, error) {
	bpffs, err := attach.FindBPFFS()
	switch {
	case errors.Is(err, attach.ErrNotFound) || errors.Is(err, attach.ErrNotSupported):
		return "", nil
	case err != nil:
		return "", err
	}
	dir := filepath.Join(bpffs, pinFolder(node))
	_, err = os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	return dir, nil
}

func unpin(dir string, node bundle.NodeID, log *slog.Logger) error {
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
		c, err := connect.Open(connect.Options{Dir: dir, Name: KernelName(node)})
		if err == nil {
			err = errors.Join(c.Remove(), c.Close())
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

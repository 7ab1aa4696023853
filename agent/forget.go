package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"moult/agent/config"
	"moult/agent/home"
	"moult/agent/software"
	"moult/agent/ways"
)

// Forget takes out of the kernel what an agent has left there for its node: what
// steers callers to it, and its cgroup with what rewrites its calls. They outlive
// the agent on purpose, so nobody else takes them out. The agent must have ended,
// and its software too. Nothing else is touched; where there is nothing, nothing is
// done.
func Forget(cfg config.Config, log *slog.Logger) (err error) {
	if _, err := os.Stat(filepath.Join(cfg.Data, home.IdentityFile)); err != nil {
		return fmt.Errorf("forget the node of data folder %s: it has no identity, so no agent ran there: %w", cfg.Data, err)
	}
	h, err := home.Open(cfg, log) // it holds the folder's lock
	if err != nil {
		return fmt.Errorf("forget the node: %w", err)
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if pids := software.Find(cfg.Data, log).Processes(); len(pids) > 0 {
		return fmt.Errorf("forget the node: its software runs, with process ID %d: stop it first", pids[0])
	}
	if err := ways.Remove(h.ID, log); err != nil {
		return fmt.Errorf("forget the node: %w", err)
	}
	return nil
}

package host

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// Compile has the module in file compiled into cfg.Cache before an object of KindWasm
// needs it, so that no caller waits for that. It takes seconds at most, and is done by
// a process of its own, with the bounds of an object host; of cfg no services are
// needed. Where it fails nothing is lost but time: whether the module can be used at
// all is seen when the object begins.
func Compile(ctx context.Context, cfg Config, file string) error {
	cfg = cfg.withDefaults()
	if cfg.Dir == "" || cfg.Cache == "" {
		return errors.New("compile a module: no folder, or none for what is compiled")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	argv := append(append([]string(nil), cfg.Program...), compileName, strconv.FormatInt(cfg.Memory, 10), cfg.Cache, file)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(slices.Clip(cfg.Env), markOf(cfg.Dir), fmt.Sprintf("GOMEMLIMIT=%d", cfg.Memory/100*memoryShare))
	said, err := cmd.CombinedOutput() // some lines of moult's own
	if ctx.Err() != nil {
		return fmt.Errorf("compile the module %s: %w", file, context.Cause(ctx))
	}
	if err != nil {
		text := strings.TrimSpace(string(said))
		return fmt.Errorf("compile the module %s: %w: %s", file, err, text[:min(len(text), maxProblem)])
	}
	return nil
}

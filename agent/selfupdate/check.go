package selfupdate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"moult/agent/config"
	"moult/agent/home"
	"moult/store"
)

// Report is what a build says of itself when it is checked: one line of JSON. Fields are only
// added.
type Report struct {
	Format int          `json:"format"` // 1
	Reads  home.Checked `json:"reads"`
}

// ErrUnfit means that a build was tried and is no good; the error says how.
var ErrUnfit = errors.New("this build is not fit to be the agent here")

// CheckFlag is that of `moult agent` by which a build is checked: its value is the folder of a
// copy of the store.
const CheckFlag = "check"

// WriteReport is what a build does that is checked: it reads all that it would go on from.
func WriteReport(cfg config.Config, copied string, out io.Writer, log *slog.Logger) error {
	reads, err := home.Check(cfg, copied, log)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(Report{Format: 1, Reads: reads})
}

// Check has a build read this node's configuration and a copy of its store, beside the running
// agent, within bounds of time, memory and output, and compares what it reads with what this
// build does. args are the running agent's own, without the program.
func (f *Folder) Check(ctx context.Context, b Build, cfg config.Config, s *store.Store, args []string) (err error) {
	dir, err := os.MkdirTemp(f.dir, ".new-check-")
	if err != nil {
		return fmt.Errorf("check %v: %w", b, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	copied := filepath.Join(dir, "store")
	if err := s.CopyTo(copied); err != nil {
		return fmt.Errorf("check %v: %w", b, err)
	}
	own, err := home.Check(cfg, copied, f.log)
	if err != nil {
		return fmt.Errorf("check %v: this agent itself does not read all that it has: %w", b, err)
	}
	r, err := f.report(ctx, b, copied, args)
	if err != nil {
		return unfit(ctx, b, err)
	}
	own.Standing, r.Reads.Standing = store.Standing{}, store.Standing{}
	mine, err1 := json.Marshal(own)
	other, err2 := json.Marshal(r.Reads)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if !bytes.Equal(mine, other) {
		return fmt.Errorf("%v reads %s, and this build reads %s: %w", b, bound(string(other)), bound(string(mine)), ErrUnfit)
	}
	return nil
}

// unfit is what a check has found that failed: ErrUnfit where that speaks against the build, and
// not where the agent ends, or the machine had no room to begin a process.
func unfit(ctx context.Context, b Build, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("check %v: %w", b, ctx.Err())
	case passing(err):
		return fmt.Errorf("check %v: %w", b, err)
	}
	return fmt.Errorf("%v: %w: %w", b, err, ErrUnfit)
}

// passing reports whether it is the machine that had no room to begin a process.
func passing(err error) bool {
	return slices.ContainsFunc([]error{syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ETXTBSY, syscall.EINTR},
		func(one error) bool { return errors.Is(err, one) })
}

// report runs a build to check it.
func (f *Folder) report(ctx context.Context, b Build, copied string, args []string) (r Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.Path, append(args[:len(args):len(args)], "--"+CheckFlag, copied)...)
	cmd.Env = childEnvironment(role{})
	var out, talk bounded
	cmd.Stdout, cmd.Stderr = &out, &talk
	cmd.WaitDelay = lockWait
	err = runTied(cmd, checkMemory)
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("checked, it did not end within %v", checkTime)
	case err != nil:
		return r, fmt.Errorf("checked, it ended with %w: %s", err, talk.tail())
	case out.over:
		return r, fmt.Errorf("checked, it wrote more than %d bytes", checkOutput)
	}
	if err := json.Unmarshal(out.kept.Bytes(), &r); err != nil || r.Format == 0 {
		return r, fmt.Errorf("checked, it does not say what it reads, but %q", bound(out.kept.String()))
	}
	return r, nil
}

// bounded keeps the beginning of what is written to it. The buffer is not embedded: it would
// read to the end by itself.
type bounded struct {
	kept bytes.Buffer
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), max(checkOutput-b.kept.Len(), 0))
	b.over = b.over || n < len(p)
	b.kept.Write(p[:n])
	return len(p), nil
}

func (b *bounded) tail() string {
	text := strings.TrimSpace(b.kept.String())
	return strings.ToValidUTF8(text[max(len(text)-maxReason/2, 0):], "")
}

// childEnvironment is that of a build that this process starts: what the service manager has
// given this process is not for it.
func childEnvironment(r role) []string {
	env := environment(r)
	kept := env[:0]
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID":
		default:
			kept = append(kept, entry)
		}
	}
	return kept
}

// environment is this process's, for what takes on a role.
func environment(r role) []string {
	var env []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, variable+"=") {
			env = append(env, entry)
		}
	}
	if r.kind != "" {
		env = append(env, variable+"="+r.String())
	}
	return env
}

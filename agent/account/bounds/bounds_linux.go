package bounds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// limits are those that there are. Times and priorities, which no service wants, are left out.
var limits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC,
	"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// thisProgram is this binary, also where its file has been replaced.
func thisProgram() string { return "/proc/self/exe" }

// hard is the highest that this process may have. Root may raise it.
func hard(limit int) (uint64, error) {
	var own unix.Rlimit
	if err := unix.Getrlimit(limit, &own); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	return own.Max, nil
}

const scoreFile = "/proc/self/oom_score_adj"

// checkScore reports a score that this process may not give: only CAP_SYS_RESOURCE lowers it.
func checkScore(score int) error {
	data, err := os.ReadFile(scoreFile)
	if err != nil {
		return err
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err == nil && score < own {
		return fmt.Errorf("oom_score = %d: it is below the agent's own, %d, and programs may only raise theirs: lower the agent's (in its unit OOMScoreAdjust=%d), or say more", score, own, score)
	}
	return err
}

// Score gives a process that was begun in a sandbox, where it cannot do so itself, the score
// for when memory runs out. One that has ended needs none.
func (b *Bounds) Score(pid int) error {
	if b == nil || b.OOMScore == nil {
		return nil
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(*b.OOMScore)), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("oom_score = %d: %w", *b.OOMScore, err)
	}
	return nil
}

func become(text, path string, argv []string) error {
	var b Bounds
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		return fmt.Errorf("bounds %q: %w", text, err)
	}
	if b.OOMScore != nil {
		if err := os.WriteFile(scoreFile, []byte(strconv.Itoa(*b.OOMScore)), 0); err != nil && !errors.Is(err, fs.ErrPermission) { // in a sandbox: see Score
			return fmt.Errorf("oom_score = %d: %w", *b.OOMScore, err)
		}
	}
	env := os.Environ()
	if b.Umask != nil {
		syscall.Umask(int(*b.Umask))
	}
	for _, name := range slices.Sorted(maps.Keys(b.Limits)) {
		most, err := hard(limits[name])
		if err == nil { // by syscall, which then does not put back what the runtime made of nofile
			n := min(b.Limits[name], most) // a transform may be held to less
			err = syscall.Setrlimit(limits[name], &syscall.Rlimit{Cur: n, Max: n})
		}
		if err != nil {
			return fmt.Errorf("rlimits: %s = %d: %w", name, b.Limits[name], err)
		}
	}
	return &os.PathError{Op: "exec", Path: path, Err: syscall.Exec(path, argv, env)}
}

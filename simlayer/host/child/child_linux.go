package child

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"moult/agent/account/sandbox"
	"moult/transforms/stray"
)

// ThisProgram is this binary, also where its file has been replaced.
func ThisProgram() string { return "/proc/self/exe" }

// endWithParent ends a process with the agent: these are no node software.
func endWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// endThreadWithParent has the calling thread end with the parent. The kernel keeps
// that wish for each thread apart, the wish of endWithParent is the first thread's, and
// a process goes on as the thread that becomes a program.
func endThreadWithParent() error {
	return os.NewSyscallError("prctl PR_SET_PDEATHSIG", unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0))
}

// run starts the process and sees it to its end. It stays on one thread of the
// operating system, since the signal that ends a child with its parent comes when
// the *thread* ends that started it.
func (c *Child) run(started chan<- error, out *os.File, log *slog.Logger) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := c.cmd.Start(); err != nil {
		started <- err
		return
	}
	var lines sync.WaitGroup
	lines.Go(func() { logLines(out, &c.last, log.With("pid", c.PID())) })
	started <- nil
	// As long as the leader is a zombie, its number cannot have become another
	// group's: the group is killed before the leader is reaped.
	for {
		err := unix.Waitid(unix.P_PID, c.PID(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	c.mu.Lock()
	c.signal(syscall.SIGKILL)
	c.reaped = true
	c.mu.Unlock()
	err := c.cmd.Wait()
	strayErr := sandbox.Outside(func() error { return stray.End(c.mark, c.who.Users()...) })
	// Nobody is left who could write, or else it is not waited for.
	_ = out.SetReadDeadline(time.Now().Add(strayWait))
	lines.Wait()
	out.Close()
	c.finish(err, strayErr)
}

// LimitMemory bounds what this process, and what it becomes, may write to.
func LimitMemory(bytes int64) error {
	limit := unix.Rlimit{Cur: uint64(bytes), Max: uint64(bytes)}
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &limit); err != nil {
		return os.NewSyscallError("setrlimit RLIMIT_DATA", err)
	}
	return nil
}

// MachineMemory is how much memory there is, in bytes.
func MachineMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return unknownMemory
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// Works reports whether a thread of the process runs, waits for a processor, or
// waits for memory or a disk; a process that has ended, or was stopped, does not.
func (c *Child) Works() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", c.PID())) // the pattern is well formed
	return slices.ContainsFunc(threads, func(path string) bool {
		stat, _ := os.ReadFile(path) // a thread that has ended does not work
		// The state follows the program's name in parentheses, which may itself hold
		// some: see proc_pid_stat(5).
		_, state, _ := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" "))
		return len(state) > 0 && (state[0] == 'R' || state[0] == 'D')
	})
}

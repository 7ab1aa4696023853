package selfupdate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"moult/store/durable"
)

// tie has a process end with this one. The caller keeps the thread that starts it: the signal
// comes when that ends.
func tie(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// runTied runs a process to its end, in a group of its own, which may write to so much memory.
func runTied(cmd *exec.Cmd, memory uint64) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tie(cmd)
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return err
	}
	limit := &unix.Rlimit{Cur: memory, Max: memory}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, limit, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		return errors.Join(os.NewSyscallError("prlimit", err), cmd.Cancel(), cmd.Wait())
	}
	return cmd.Wait()
}

// endOrphan ends the build on trial that an agent has left which was killed, if it has the data
// folder still: it dies with its parent, which may take a moment.
func endOrphan(data, program string) error {
	text, err := durable.ReadFile(filepath.Join(data, "lock"), maxPID)
	if err != nil {
		return nil // nobody has it
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 || pid == os.Getpid() {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return nil
	}
	if own, err := os.Stat(program); err != nil || !os.SameFile(exe, own) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	for end := time.Now().Add(orphanWait); ; {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("process %d, a build on trial, does not end although killed", pid)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
	}
}

func become(program string, env []string) error {
	return os.NewSyscallError("execve", unix.Exec(program, os.Args, env))
}

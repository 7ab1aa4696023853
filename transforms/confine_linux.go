package transforms

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"moult/agent/account"
	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
	"moult/store/bundle"
)

// errNoMount is returned where the old slot cannot be mounted read-only here.
// The program was not started.
var errNoMount = errors.New("no read-only mount of the old slot")

// confinement is what a program is held to.
type confinement struct {
	// readOnly are folders that the program may not change.
	readOnly  []string
	memoryMax int64 // bytes of RLIMIT_DATA; 0: no limit
	newSlot   string
	account   *account.Account
	sandbox   *sandbox.Sandbox
	bounds    *bounds.Bounds
}

// mayMount guesses whether the old slot can be mounted read-only.
func mayMount() bool { return capable(unix.CAP_SYS_ADMIN) }

// capable reports whether this thread has a capability; all of a process have the same.
func capable(capability int) bool {
	var hdr = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<capability) != 0
}

// runConfined starts cmd and waits for it. When it returns, no process of
// cmd's group is left, nor any other that has the new slot in its environment.
//
// It does so on an operating system thread of its own, for two reasons: a
// mount namespace belongs to a thread, which is thrown away afterwards; and
// the signal that ends the child with its parent (Pdeathsig) is sent when the
// *thread* that started the child ends.
func runConfined(cmd *exec.Cmd, c confinement) error {
	return account.Aside(func() error { return confined(cmd, c) })
}

func confined(cmd *exec.Cmd, c confinement) error {
	if len(c.readOnly) > 0 {
		if err := mountReadOnly(c.readOnly); err != nil {
			return fmt.Errorf("%w: %w", errNoMount, err)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.account.Dress(cmd)
	group := c.bounds.InGroup()
	begun, err := group.Begin(cmd.SysProcAttr)
	if err != nil {
		return err
	}
	defer begun()
	if err := errors.Join(group.Enter(), c.sandbox.Enter(), c.account.Drop()); err != nil { // of this thread, which is thrown away
		return err
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if c.bounds != nil && c.memoryMax > 0 {
		c.bounds, c.memoryMax = c.bounds.And("data", uint64(c.memoryMax)), 0
	}
	byShell := limitsByShell(c.account)
	if byShell {
		if err := limitByShell(cmd, c.memoryMax); err != nil {
			return err
		}
	}
	if err := c.bounds.Wrap(cmd); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	limitErr := sandbox.Outside(func() error { return c.bounds.Score(pid) })
	if !byShell && limitErr == nil {
		// Go has no way to set the limit between fork and exec; the program
		// runs without it for some microseconds.
		limitErr = limit(pid, c.memoryMax)
	}
	if limitErr != nil {
		unix.Kill(-pid, unix.SIGKILL)
	}
	// As long as the leader is a zombie, its number cannot have become another
	// group's: the group is killed before the leader is reaped.
	awaitZombie(pid)
	unix.Kill(-pid, unix.SIGKILL)
	strayErr := sandbox.Outside(func() error { return stopStrays(c.newSlot, c.account) })
	return errors.Join(limitErr, cmd.Wait(), strayErr)
}

// CanLimit reports whether a transform can be held to its memory_max here.
func CanLimit(spec bundle.Transform, who *account.Account) error {
	if len(spec.Exec) == 0 || spec.MemoryMax == 0 || !limitsByShell(who) {
		return nil
	}
	if _, err := os.Stat(shell); err != nil {
		return fmt.Errorf("hold the transform to its memory_max as user %s: without CAP_SYS_RESOURCE that takes a shell: %w: give the agent the capability, or the machine the shell", who.Name, err)
	}
	return nil
}

// shell sets a limit of its own, and then becomes the program. Tests have none.
var shell = "/bin/sh"

// limitsByShell reports whether the kernel refuses this process to limit the account's.
// Anybody may lower his own limit.
func limitsByShell(who *account.Account) bool { return who.Others() && !capable(unix.CAP_SYS_RESOURCE) }

// memoryLimit is no more than this process's own, which cannot be raised.
func memoryLimit(bytes int64) (uint64, error) {
	var own unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_DATA, &own)
	return min(uint64(bytes), own.Max), os.NewSyscallError("getrlimit", err)
}

// limit holds a process to so many bytes of memory; 0 is no limit.
func limit(pid int, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	most, err := memoryLimit(bytes)
	if err == nil {
		err = unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: most, Max: most}, nil)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("set its memory limit: %w", err)
	}
	return nil
}

// limitByShell has cmd begin with so many bytes of memory, down to a whole KiB.
func limitByShell(cmd *exec.Cmd, bytes int64) error {
	if bytes == 0 || cmd.Err != nil {
		return nil // what cmd.Err is, Start says
	}
	path := cmd.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(cmd.Dir, path)
	}
	for _, program := range []string{path, shell} { // the shell would say it less well
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("begin it with a memory limit: %w", err)
		}
	}
	most, err := memoryLimit(bytes)
	if err != nil {
		return err
	}
	cmd.Args = append([]string{shell, "-c", `ulimit -d "$0" && exec "$@"`, strconv.FormatUint(most/1024, 10), path}, cmd.Args[1:]...)
	cmd.Path = shell
	return nil
}

func awaitZombie(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// mountReadOnly gives the calling thread a mount namespace of its own in which
// dirs, and what is mounted below them, are read-only.
func mountReadOnly(dirs []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare mount namespace", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("make mounts private", err)
	}
	for _, dir := range dirs {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return os.NewSyscallError("bind "+dir, err)
		}
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, unix.AT_RECURSIVE, &attr); err != nil {
			return os.NewSyscallError("make read-only "+dir, err)
		}
	}
	return nil
}

// syncFileSystem makes everything on dir's file system durable, in one call.
// It reports whether it did.
func syncFileSystem(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return false, os.NewSyscallError("syncfs "+dir, err)
	}
	return true, nil
}

// nextData returns the first part of a file at or after off that holds data.
func nextData(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // only a hole is left
		return size, size, nil
	case err != nil: // the file system does not know: all is data
		return off, size, nil
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return min(start, size), min(end, size), nil
}

func changeTime(st *syscall.Stat_t) int64 { return st.Ctim.Nano() }

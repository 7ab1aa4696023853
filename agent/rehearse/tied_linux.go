package rehearse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"moult/simlayer/host/child"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// supported says why nothing can be rehearsed here.
func supported() error { return nil }

// runTied runs cmd to its end, in a process group that is killed with it, and with the
// agent; from apartNet on: in a network of its own, and by apartAll among processes of its own, all of
// which end with it. The signal that ends a process with its parent
// comes when the thread ends that started it, so it stays on one.
func runTied(cmd *exec.Cmd, apart apartness) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if apart > together {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
		if apart == apartAll {
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID | unix.CLONE_NEWNS
		}
		if os.Geteuid() != 0 { // who is not root may in a user namespace of its own
			id := func(n int) []syscall.SysProcIDMap {
				return []syscall.SysProcIDMap{{ContainerID: n, HostID: n, Size: 1}}
			}
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = id(os.Geteuid()), id(os.Getegid())
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}
		}
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd.Run()
}

// alone reports whether this process has a network of its own, where there is no interface but
// loopback, which it brings up; and by apartAll it has the table of processes be of its own.
func alone(apart apartness) error {
	if apart == apartAll {
		if err := ownProcesses(); err != nil {
			return fmt.Errorf("%w: %w", errNotAlone, err)
		}
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifs {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			return fmt.Errorf("%w: %s", errNotAlone, i.Name)
		}
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	return nil
}

// without begins this process anew, with more arguments, and without the capabilities that alone
// needed: what is started must not have them. Each thread has its own, so all but one go. It
// returns nil where there are none.
func without(more ...string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_CAP_AMBIENT", err)
	}
	return os.NewSyscallError("execve", unix.Exec(child.ThisProgram(), append(slices.Clone(os.Args), more...), os.Environ()))
}

// ownProcesses has /proc show the processes that this one can see: what looks for processes by
// it must not find others of the same number.
func ownProcesses() error {
	if os.Getpid() != 1 {
		return fmt.Errorf("it is process %d", os.Getpid())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount / private", err)
	}
	return os.NewSyscallError("mount /proc", unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
}

// freeMemory is how many bytes of the machine's memory can be had without taking any away.
func freeMemory() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxMeminfo))
	for lines.Scan() {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.Join(fmt.Errorf("%s does not say MemAvailable", f.Name()), lines.Err())
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("bring the loopback interface up", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// giveWay has this process group, and what it starts, come after others. What is given to
// one process is its calling thread's alone.
func giveWay() error {
	err := unix.Setpriority(unix.PRIO_PGRP, 0, niceness)
	const idle, shift, group = 3, 13, 2 // of ioprio_set(2)
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, group, 0, idle<<shift); errno != 0 {
		err = errors.Join(err, os.NewSyscallError("ioprio_set", errno))
	}
	// Where memory runs out the kernel is to end these, not what serves.
	return errors.Join(err, os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0))
}

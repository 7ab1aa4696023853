package stray

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// End kills every process but this one that [Has] entry, and returns when they have
// ended. An error says that some did not, or that none can be found.
func End(entry string, users ...int) error {
	return EndAll(func(pid int) bool { return Has(pid, entry, users...) }, "with "+entry+" in their environment")
}

// EndAll kills every process but this one of which isOne is true, and returns when
// they have ended. who names them in the error that says that some did not.
func EndAll(isOne func(pid int) bool, who string) error {
	for range rounds {
		if n, err := Signal(isOne, unix.SIGKILL, wait); err != nil || n == 0 {
			return err
		}
	}
	return fmt.Errorf("processes %s do not end after %d rounds of SIGKILL", who, rounds)
}

// Signal sends sig to every process but this one of which isOne is true, waits until
// they have ended, at most so long in all, and returns how many they were.
func Signal(isOne func(pid int) bool, sig unix.Signal, long time.Duration) (n int, err error) {
	fds, err := open(isOne)
	for _, fd := range fds {
		// It fails only for one that has ended, or that is not ours to signal;
		// the latter is still there in the next round.
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	end := time.Now().Add(long)
	for _, fd := range fds {
		Await(fd, time.Until(end))
		unix.Close(fd)
	}
	return len(fds), err
}

// Await waits until the process of a pidfd has ended, at most so long.
func Await(pidfd int, long time.Duration) {
	for end := time.Now().Add(long); ; {
		left := max(time.Until(end), 0)
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Find returns a pidfd of each live process but this one that [Has] entry. They are
// the caller's to close.
func Find(entry string, users ...int) (pidfds []int, err error) {
	return open(func(pid int) bool { return Has(pid, entry, users...) })
}

func open(isOne func(pid int) bool) (pidfds []int, err error) {
	err = Each(func(pid int) {
		if pid == os.Getpid() || !isOne(pid) {
			return
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return
		}
		// Asked once more now that the number cannot change hands.
		if !isOne(pid) {
			unix.Close(fd)
			return
		}
		pidfds = append(pidfds, fd)
	})
	return pidfds, err
}

// Each visits the numbers of all processes.
func Each(visit func(pid int)) error {
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			visit(pid)
		}
	}
	return nil
}

// Has reports whether a live process of one of the users, or where none is given of this
// process's own, was started with entry in its environment: anybody may start programs
// with any environment, and those of others must neither be ended nor waited for.
func Has(pid int, entry string, users ...int) bool { return owned(pid, users) && Carries(pid, entry) }

// owned reports whether a process belongs to one of these users. What counts is the
// real user: who starts a set-user-ID program has another's effective one. The owner
// of /proc/PID says nothing, since any process can make that root's.
func owned(pid int, users []int) bool {
	if len(users) == 0 {
		users = []int{os.Getuid()}
	}
	status, err := os.ReadFile(procFile(pid, "status"))
	return err == nil && slices.ContainsFunc(users, func(uid int) bool { return isOwn(status, uid) })
}

// isOwn looks into a file /proc/PID/status; see proc_pid_status(5).
func isOwn(status []byte, uid int) bool {
	for line := range bytes.Lines(status) {
		if ids, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			fields := bytes.Fields(ids)
			return len(fields) > 0 && string(fields[0]) == strconv.Itoa(uid)
		}
	}
	return false
}

// Carries is [Has] whoever's the process is: for those who know otherwise that it is
// their own. It is false where the environment may not be read.
func Carries(pid int, entry string) bool {
	for end := time.Now().Add(execWait); ; time.Sleep(time.Millisecond) {
		env, err := os.ReadFile(procFile(pid, "environ"))
		if err != nil {
			return false
		}
		for e := range bytes.SplitSeq(env, []byte{0}) {
			if string(e) == entry {
				return true
			}
		}
		if isWhole(pid, len(env)) || time.Now().After(end) {
			return false
		}
	}
}

// isWhole reports whether the environment of a process is as long as what was read of
// it. While it executes another program Linux has the file be empty, and ends one that
// is being read; the process would be taken for another's.
func isWhole(pid, read int) bool {
	stat, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return true // it has ended
	}
	// See proc_pid_stat(5). The name, in parentheses, may hold blanks and parentheses.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const first, flags, envStart, envEnd = 3, 9, 50, 51
	if len(fields) <= envEnd-first {
		return true
	}
	number := func(field int) uint64 {
		n, _ := strconv.ParseUint(string(fields[field-first]), 10, 64)
		return n
	}
	const kernelThread = 0x00200000 // PF_KTHREAD
	if state := fields[0][0]; state == 'Z' || state == 'X' || number(flags)&kernelThread != 0 {
		return true // neither has one
	}
	start, end := number(envStart), number(envEnd)
	return end != 0 && uint64(read) == end-start
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

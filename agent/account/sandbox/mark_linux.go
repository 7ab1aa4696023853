package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mark gives the calling thread a filter of system calls that allows all of them: nobody can
// take off a filter, all children have it too, and the kernel tells how many there are.
// Landlock itself keeps nobody from calling a unix socket that has a name, and does not show
// who is held by it.
func mark() error {
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	prog := unix.SockFprog{Len: 1, Filter: &allow}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 && !errors.Is(errno, unix.ENOSYS) && !errors.Is(errno, unix.EINVAL) {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil // without filters in the kernel, which Lacks says
}

// Inside reports whether a process is, as far as the kernel can tell, in a sandbox of this
// process's: it can gain no rights, and has a filter of system calls more than this one. One
// of which that cannot be told, such as one that has ended, is.
func Inside(pid int) bool {
	if errOwn != nil {
		return false // not told of anybody, which Lacks says
	}
	n, closed, err := standing(pid)
	return err != nil || closed && n > ownFilters
}

// Those of this process, asked when it begins: later there may be no descriptor left to ask by.
var ownFilters, _, errOwn = standing(os.Getpid())

// standing is how many filters of system calls a process has, and whether it can gain no
// rights.
func standing(pid int) (filters int, closed bool, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false, err
	}
	told := false
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		switch value = bytes.TrimSpace(value); string(name) {
		case "Seccomp_filters":
			if filters, err = strconv.Atoi(string(value)); err != nil {
				return 0, false, fmt.Errorf("/proc/%d/status: %w", pid, err)
			}
			told = true
		case "NoNewPrivs":
			closed = string(value) == "1"
		}
	}
	if !told {
		return 0, false, errors.New("this kernel counts no filters of system calls")
	}
	return filters, closed, nil
}

package stray

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// End kills every process but this one with entry in its environment, and returns
// when they have ended. An error says that some did not, or that none can be found.
func End(entry string) error {
	for range rounds {
		fds, err := Find(entry)
		if err != nil || len(fds) == 0 {
			return err
		}
		for _, fd := range fds {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		for _, fd := range fds {
			Await(fd, wait)
			unix.Close(fd)
		}
	}
	return fmt.Errorf("processes with %s in their environment do not end although killed", entry)
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

// Find returns a pidfd of each live process but this one with entry in its
// environment. They are the caller's to close.
func Find(entry string) (pidfds []int, err error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The pidfd comes first, so that it is of the process whose environment
		// is read, or of one that has ended.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if !Has(pid, entry) {
			unix.Close(fd)
			continue
		}
		pidfds = append(pidfds, fd)
	}
	return pidfds, nil
}

// Has reports whether a live process was started with entry in its environment. It
// is false where that may not be read.
func Has(pid int, entry string) bool {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	for e := range bytes.SplitSeq(env, []byte{0}) {
		if string(e) == entry {
			return true
		}
	}
	return false
}

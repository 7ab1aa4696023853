package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"moult/transforms/stray"
)

// ref is a process held by pidfd: it cannot come to mean another one.
type ref struct{ f *os.File }

func openRef(pid int) (*ref, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &ref{os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", pid))}, nil
}

// openChild opens a child that has not been reaped yet.
func openChild(pid int) (Handle, *ref, error) {
	r, err := openRef(pid)
	if err != nil {
		return Handle{}, nil, err
	}
	h, _, err := handleOf(pid)
	if err != nil {
		r.close()
		return Handle{}, nil, err
	}
	return h, r, nil
}

// openHandle opens the process that h names, or returns ErrGone.
func openHandle(h Handle) (*ref, error) {
	if h.PID <= 0 {
		return nil, ErrGone
	}
	r, err := openRef(h.PID)
	if err != nil {
		// No process, or a thread, has the number. But a kernel that is too
		// old, or a filter, may also refuse; then what runs must not be taken
		// for gone, or it would be started a second time.
		if now, stat, statErr := handleOf(h.PID); statErr == nil && now == h && !stat.ended() {
			return nil, fmt.Errorf("%w (Linux 5.10 or newer is needed)", err)
		}
		return nil, ErrGone
	}
	// What /proc says after the pidfd was opened is of the pidfd's process, or
	// that one has ended.
	now, stat, err := handleOf(h.PID)
	if isGone(err) || err == nil && (now != h || stat.ended()) {
		r.close()
		return nil, ErrGone
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// await waits until the process has ended; false where closed came first. A
// child is reaped, after beforeReap: as long as it is a zombie, its number
// cannot have become another session's.
func (r *ref) await(_ <-chan struct{}, child *os.Process, beforeReap func()) (*os.ProcessState, bool) {
	defer r.close()
	conn, err := r.f.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 && err == nil
		})
	}
	if err != nil { // closed
		return nil, false
	}
	beforeReap()
	if child == nil {
		return nil, true
	}
	state, err := child.Wait()
	if err != nil {
		return nil, true
	}
	return state, true
}

func (r *ref) signal(sig unix.Signal) error {
	conn, err := r.f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	return sent
}

func (r *ref) close() { r.f.Close() }

// procStat is what is used of /proc/PID/stat; see proc_pid_stat(5).
type procStat struct {
	state      byte
	session    int
	startTicks uint64
}

func (s procStat) ended() bool { return s.state == 'Z' || s.state == 'X' }

func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	// The second field is the program's name in parentheses, and may itself
	// hold blanks and parentheses. The third follows the last one.
	_, rest, ok := bytes.Cut(data[max(bytes.LastIndexByte(data, ')'), 0):], []byte(" "))
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %.100q is not understood", pid, data)
	}
	session, err1 := strconv.Atoi(fields[6-3])
	ticks, err2 := strconv.ParseUint(fields[22-3], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return procStat{fields[0][0], session, ticks}, nil
}

func handleOf(pid int) (Handle, procStat, error) {
	stat, err := readStat(pid)
	if err != nil {
		return Handle{}, stat, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Handle{}, stat, err
	}
	return Handle{PID: pid, StartTicks: stat.startTicks, BootID: strings.TrimSpace(string(boot))}, stat, nil
}

// isGone reports whether reading below /proc/PID failed because it ended.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// killSession kills every process of the session that h began, and returns
// when they have ended. The leader, if it is a zombie, is left to its parent.
func killSession(h Handle) error {
	return stray.EndAll(func(pid int) bool {
		stat, err := readStat(pid)
		if err != nil || stat.session != h.PID || stat.ended() {
			return false
		}
		// Where the number is another process's by now it was free, so no process
		// of the session was left: this is another session.
		now, _, err := handleOf(h.PID)
		return err != nil || now == h
	}, fmt.Sprintf("of session %d", h.PID))
}

// stopMarked stops the software that carries the marker: SIGTERM to all of it, and
// SIGKILL to what does not end. Software that has changed its user is known by the
// cgroup, where there is one: others cannot get into it.
func stopMarked(marker string, cgroup *os.File, users []int) error {
	if marker == "" {
		return nil
	}
	entry, inside := markerEntry(marker), members(cgroup)
	marked := func(pid int) bool {
		return stray.Has(pid, entry, users...) || inside[pid] && stray.Carries(pid, entry)
	}
	if n, err := stray.Signal(marked, unix.SIGTERM, orphanGrace); err != nil || n == 0 {
		return err
	}
	return stray.EndAll(marked, "with "+entry+" in their environment")
}

// members are the processes in a cgroup.
func members(cgroup *os.File) map[int]bool {
	if cgroup == nil {
		return nil
	}
	list, err := os.ReadFile(filepath.Join(cgroup.Name(), "cgroup.procs"))
	if err != nil {
		return nil
	}
	inside := map[int]bool{}
	for _, word := range strings.Fields(string(list)) {
		if pid, err := strconv.Atoi(word); err == nil {
			inside[pid] = true
		}
	}
	return inside
}

// FindOrphans returns the software that was started with marker and still
// runs, of the users if any are given. It is for an agent that has no Handle, or one of a process that is
// gone: its predecessor may have been killed before it could keep the Handle.
// More than one is a fault.
func FindOrphans(marker string, users ...int) ([]Handle, error) {
	var found []Handle
	err := stray.Each(func(pid int) {
		h, stat, err := handleOf(pid)
		if err != nil || stat.session != pid || stat.ended() {
			return // only the first process leads the session
		}
		if stray.Has(pid, markerEntry(marker), users...) {
			found = append(found, h)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("look for node software that still runs: %w", err)
	}
	return found, nil
}

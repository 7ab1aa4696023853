package attach

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Take finds, among the descriptors of processes, the TCP socket that listens or
// the unconnected UDP socket that is bound on an address, and returns a
// descriptor of it (pidfd_getfd). An exact address is better than a wildcard
// bind; a wildcard is found for any address that it takes. The network is "tcp"
// or "udp". While the file is open the socket outlives its process, and software
// that closes and binds it again fails: the caller closes it soon, or keeps it
// to accept strays.
//
// ErrNotPermitted: this process may not look into one of them, and no other has
// it. ErrNotFound: none has it; processes that have ended count as having none.
// ErrSocket: what listens there is multipath TCP.
func Take(pids []int, network string, addr netip.AddrPort) (*os.File, error) {
	f, err := takeWhere(pids, network, addr, nil)
	if err != nil {
		return nil, fmt.Errorf("take the socket of %s %s: %w", network, addr, err)
	}
	return f, nil
}

// takeWhere is Take; the function, where it is not nil, says which sockets count.
func takeWhere(pids []int, network string, addr netip.AddrPort, counts func(fd, fit int) bool) (*os.File, error) {
	kind, err := socketKind(network)
	if err == nil && (!addr.IsValid() || addr.Port() == 0) {
		err = fmt.Errorf("%v is no address with a port", addr)
	}
	if err == nil && len(pids) > maxPids {
		err = fmt.Errorf("%d processes, want at most %d", len(pids), maxPids)
	}
	if err != nil {
		return nil, err
	}
	s := search{kind: kind, addr: addr, counts: counts}
	failed := walk(pids, s.look)
	if s.found != nil {
		return s.found, nil
	}
	if failed == nil {
		failed = fmt.Errorf("%w in %d processes: is the software listening yet, and there?", ErrNotFound, len(pids))
	}
	return nil, failed
}

func socketKind(network string) (int, error) {
	switch network {
	case "tcp":
		return unix.SOCK_STREAM, nil
	case "udp":
		return unix.SOCK_DGRAM, nil
	}
	return 0, fmt.Errorf("network %q: want tcp or udp", network)
}

// search is what Take has found so far.
type search struct {
	kind   int
	addr   netip.AddrPort
	counts func(fd, fit int) bool // or nil: all do
	found  *os.File
	fit    int
}

// look keeps a socket that fits better than what was found so far.
func (s *search) look(got int) (done bool, err error) {
	k, err := inspect(got)
	fit := 0
	if err == nil && k.kind == s.kind && (k.listening || k.kind == unix.SOCK_DGRAM && !k.connected) {
		fit = k.serves(s.addr)
	}
	if fit > 0 && s.counts != nil && !s.counts(got, fit) {
		fit = 0
	}
	if fit > 0 && k.protocol == unix.IPPROTO_MPTCP {
		unix.Close(got)
		return false, multipath()
	}
	if fit <= s.fit {
		return false, unix.Close(got)
	}
	if s.found != nil {
		s.found.Close()
	}
	s.found, s.fit = os.NewFile(uintptr(got), s.addr.String()), fit
	return fit == exactFit, nil
}

// TakeCookies finds, among the descriptors of processes, sockets by their numbers
// (SO_COOKIE), and returns a descriptor of each, in the order of the numbers; nil
// where no process has it. Their states do not matter. The caller closes them.
//
// ErrNotPermitted: one is missing, and this process may not look into all of them.
func TakeCookies(pids []int, cookies ...uint64) ([]*os.File, error) {
	found, missing := make([]*os.File, len(cookies)), len(cookies)
	failed := walk(pids, func(got int) (bool, error) {
		number, err := cookie(got)
		i := slices.Index(cookies, number)
		if err != nil || i < 0 || found[i] != nil {
			return false, unix.Close(got)
		}
		found[i] = os.NewFile(uintptr(got), fmt.Sprintf("socket %d", number))
		missing--
		return missing == 0, nil
	})
	if missing > 0 && failed != nil {
		for _, f := range found {
			if f != nil {
				f.Close()
			}
		}
		return nil, fmt.Errorf("take the running node's sockets: %w", failed)
	}
	return found, nil
}

// walk gives a descriptor of each socket of these processes to look, which closes
// or keeps it, until that is done. It returns the first error: others may have
// succeeded.
func walk(pids []int, look func(got int) (done bool, err error)) (failed error) {
	for _, pid := range pids {
		done, err := walkOne(pid, look)
		if done {
			return nil
		}
		if err != nil && failed == nil {
			failed = fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return failed
}

func walkOne(pid int, look func(got int) (done bool, err error)) (done bool, failed error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, permission(err)
	}
	defer unix.Close(pidfd)
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	names, err := readNames(dir, maxDescriptors)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list its descriptors: %w", foreign(err))
	}
	for _, name := range names {
		to, err := os.Readlink(filepath.Join(dir, name))
		fd, nerr := strconv.Atoi(name)
		if err != nil || nerr != nil || !strings.HasPrefix(to, "socket:") {
			continue
		}
		got, err := unix.PidfdGetfd(pidfd, fd, 0)
		if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
			continue // closed or ended meanwhile
		}
		if err != nil {
			return false, fmt.Errorf("take its descriptor %d: %w", fd, foreign(err))
		}
		if done, err = look(got); done {
			return true, nil
		}
		if err != nil && failed == nil {
			failed = err
		}
	}
	return false, failed
}

func multipath() error {
	return fmt.Errorf(`%w: it is multipath TCP, which BPF refuses: software in Go is started with GODEBUG=multipathtcp=0, other software without mptcpize`, ErrSocket)
}

// foreign explains what looking into another process needs.
func foreign(err error) error {
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: pidfd_getfd needs Linux 5.6", ErrNotSupported)
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return err
	}
	why := "run the software as the agent's user, or give the agent CAP_SYS_PTRACE"
	if scope := yama(); scope >= 2 {
		why = fmt.Sprintf("give the agent CAP_SYS_PTRACE (kernel.yama.ptrace_scope is %d)", scope)
		if scope >= 3 {
			why = "kernel.yama.ptrace_scope is 3, which forbids it to everybody until the next boot"
		}
	}
	return fmt.Errorf("%w: %s: %w", ErrNotPermitted, why, err)
}

// yama returns who may look into processes: 0 where the kernel does not say.
func yama() int {
	b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

// Family returns a process, those of the session that it leads and all their
// descendants, in increasing order but the process itself first: where the
// socket of software that was started as pid may be. Processes that come or go
// meanwhile may be missing.
func Family(pid int) ([]int, error) {
	names, err := readNames("/proc", maxProcesses)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[int][]int{}
	queue := []int{pid}
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		parent, session, err := ancestry(n)
		if err != nil || n == pid {
			continue
		}
		children[parent] = append(children[parent], n)
		if session == pid {
			queue = append(queue, n)
		}
	}
	seen := map[int]bool{}
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		if seen[n] {
			continue
		}
		if len(seen) == maxPids {
			return nil, fmt.Errorf("process %d: its session and descendants are more than %d", pid, maxPids)
		}
		seen[n] = true
		queue = append(queue, children[n]...)
	}
	delete(seen, pid)
	all := make([]int, 0, len(seen)+1)
	for n := range seen {
		all = append(all, n)
	}
	slices.Sort(all)
	return append([]int{pid}, all...), nil
}

// ancestry reads the parent and the session of a process.
func ancestry(pid int) (parent, session int, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The name, in brackets, may hold anything: what follows is after the last.
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 4 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	parent, err = strconv.Atoi(fields[1])
	if err != nil {
		return 0, 0, err
	}
	session, err = strconv.Atoi(fields[3])
	return parent, session, err
}

// readNames lists a folder, unordered, and fails past a number of names.
func readNames(dir string, limit int) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(limit)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && len(names) == limit {
		err = fmt.Errorf("%s: %d entries or more", dir, limit)
	}
	return names, err
}

package host

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"moult/transforms/stray"
)

// thisProgram is this binary, also where its file has been replaced.
func thisProgram() string { return "/proc/self/exe" }

// endWithParent ends a process with the agent: these are no node software.
func endWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// run starts the process and sees it to its end. It stays on one thread of the
// operating system, since the signal that ends a child with its parent comes when
// the *thread* ends that started it.
func (c *child) run(started chan<- error, out *os.File, log *slog.Logger) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := c.cmd.Start(); err != nil {
		started <- err
		return
	}
	var lines sync.WaitGroup
	lines.Go(func() { logLines(out, &c.last, log.With("pid", c.pid())) })
	started <- nil
	// As long as the leader is a zombie, its number cannot have become another
	// group's: the group is killed before the leader is reaped.
	for {
		err := unix.Waitid(unix.P_PID, c.pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	c.mu.Lock()
	c.signal(syscall.SIGKILL)
	c.reaped = true
	c.mu.Unlock()
	err := c.cmd.Wait()
	strayErr := stray.End(c.mark)
	// Nobody is left who could write, or else it is not waited for.
	_ = out.SetReadDeadline(time.Now().Add(strayWait))
	lines.Wait()
	out.Close()
	c.finish(err, strayErr)
}

// limitMemory bounds what this process, and what it becomes, may write to.
func limitMemory(bytes int64) error {
	limit := unix.Rlimit{Cur: uint64(bytes), Max: uint64(bytes)}
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &limit); err != nil {
		return os.NewSyscallError("setrlimit RLIMIT_DATA", err)
	}
	return nil
}

// waiting returns how many connections wait at a listening socket to be
// accepted; false where that is not known.
func waiting(s *socket) (int, bool) {
	if _, ok := s.ln.(*net.TCPListener); !ok {
		return 0, false
	}
	var info *unix.TCPInfo
	var infoErr error
	err := s.raw(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err != nil || infoErr != nil {
		return 0, false
	}
	return int(info.Unacked), true // of a listening socket: the length of its queue
}

// listensAt reports whether a process with mark in its environment has a
// listening TCP socket at addr, which is of IPv4.
func listensAt(mark, addr string) bool {
	socket, err := listenerInode(addr)
	if err != nil || socket == "" {
		return false
	}
	fds, err := stray.Find(mark)
	if err != nil {
		return false
	}
	found := false
	for _, fd := range fds {
		pid, err := pidOf(fd)
		found = found || err == nil && holds(pid, socket)
		unix.Close(fd)
	}
	return found
}

// listenerInode returns "socket:[inode]" of what listens at addr, or "".
func listenerInode(addr string) (string, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "", err
	}
	ip := ap.Addr().As4()
	want := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), ap.Port())
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			return "", err
		}
		defer f.Close()
		lines := bufio.NewScanner(io.LimitReader(f, maxTable))
		for lines.Scan() {
			// sl local remote st tx:rx tr:when retrnsmt uid timeout inode …
			fields := strings.Fields(lines.Text())
			const listening = "0A"
			if len(fields) < 10 || fields[3] != listening {
				continue
			}
			if local := fields[1]; local == want || strings.HasSuffix(local, fmt.Sprintf("00000000:%04X", ap.Port())) {
				return "socket:[" + fields[9] + "]", nil
			}
		}
	}
	return "", nil
}

// pidOf returns the process of a pidfd.
func pidOf(pidfd int) (int, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(info), "\n") {
		if pid, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(pid))
		}
	}
	return 0, errors.New("no Pid in fdinfo")
}

// holds reports whether a process has a descriptor of a socket.
func holds(pid int, socket string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && link == socket {
			return true
		}
	}
	return false
}

// machineMemory is how much memory there is, in bytes.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return maxDefaultMemory
	}
	return int64(info.Totalram) * int64(info.Unit)
}

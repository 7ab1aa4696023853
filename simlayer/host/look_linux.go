package host

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"moult/transforms/stray"
)

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
func listensAt(mark, addr string, users ...int) bool {
	socket, err := listenerInode(addr)
	if err != nil || socket == "" {
		return false
	}
	fds, err := stray.Find(mark, users...)
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

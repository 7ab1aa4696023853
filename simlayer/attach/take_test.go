//go:build linux

package attach

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// killNode ends a process that a child has started, and waits for its end.
func killNode(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(10*time.Second/time.Millisecond))
}

func take(t *testing.T, pid int, network, addr string) (*os.File, error) {
	t.Helper()
	f, err := Take([]int{pid}, network, netip.MustParseAddrPort(addr))
	if f != nil {
		t.Cleanup(func() { f.Close() })
	}
	return f, err
}

func TestTake(t *testing.T) {
	for _, c := range []struct {
		network, bind string
		want          []string // addresses of the bind's port that find it
		not           []string
	}{
		{"tcp", "127.0.0.1:0", []string{"127.0.0.1"}, []string{"127.0.0.2", "::1", "0.0.0.0"}},
		{"tcp", "[::1]:0", []string{"::1"}, []string{"127.0.0.1", "::"}},
		{"tcp", "[::]:0", []string{"127.0.0.1", "::1", "::", "0.0.0.0"}, nil},
		{"udp", "127.0.0.1:0", []string{"127.0.0.1"}, []string{"127.0.0.2"}},
		{"udp", "[::]:0", []string{"127.0.0.1", "::1"}, nil},
	} {
		t.Run(c.network+" "+c.bind, func(t *testing.T) {
			needV6(t, c.bind)
			node := start(t, "node", nil)
			cmd := map[string]string{"tcp": "listen ", "udp": "udp "}[c.network]
			at := netip.MustParseAddrPort(node.ask(cmd + c.bind))
			for _, ip := range c.want {
				f, err := take(t, node.pid(), c.network, netip.AddrPortFrom(netip.MustParseAddr(ip), at.Port()).String())
				if err != nil {
					t.Error(err)
					continue
				}
				s, err := inspectFile(f)
				if err != nil || s.local != at {
					t.Errorf("took %s, %v, want %s", s.local, err, at)
				}
			}
			for _, ip := range c.not {
				if _, err := take(t, node.pid(), c.network, netip.AddrPortFrom(netip.MustParseAddr(ip), at.Port()).String()); !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %v, want not found", ip, err)
				}
			}
			other := map[string]string{"tcp": "udp", "udp": "tcp"}[c.network]
			if _, err := take(t, node.pid(), other, at.String()); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v, want not found", other, err)
			}
		})
	}
}

func TestTakePrefersExact(t *testing.T) {
	node := start(t, "node", nil)
	wild := netip.MustParseAddrPort(node.ask("listen 0.0.0.0:0"))
	_ = wild
	exact := start(t, "node", nil)
	at := exact.ask("listen 127.0.0.1:0")
	f, err := Take([]int{node.pid(), exact.pid()}, "tcp", netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s, err := inspectFile(f); err != nil || s.local.String() != at {
		t.Errorf("took %s, %v", s.local, err)
	}
}

func TestTakeRefuses(t *testing.T) {
	node := start(t, "node", nil)
	at := node.ask("listen 127.0.0.1:0")
	if _, err := take(t, node.pid(), "sctp", at); err == nil {
		t.Error("sctp was looked for")
	}
	if _, err := Take([]int{node.pid()}, "tcp", netip.AddrPort{}); err == nil {
		t.Error("no address was looked for")
	}
	if _, err := Take(make([]int, maxPids+1), "tcp", netip.MustParseAddrPort(at)); err == nil {
		t.Error("too many processes were looked into")
	}
	node.kill()
	if _, err := take(t, node.pid(), "tcp", at); !errors.Is(err, ErrNotFound) {
		t.Errorf("a process that has ended: %v", err)
	}
}

func TestTakeMultipath(t *testing.T) {
	node := start(t, "multipath", nil)
	at := node.ask("listen 127.0.0.1:0")
	_, err := take(t, node.pid(), "tcp", at)
	if err == nil {
		t.Skip("this kernel has no multipath TCP: software falls back to TCP")
	}
	if !errors.Is(err, ErrSocket) || !strings.Contains(err.Error(), "GODEBUG=multipathtcp=0") {
		t.Errorf("%v", err)
	}
}

// nobody is a process of another user, without rights.
func nobody(t *testing.T) *child {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("acting as another user needs root")
	}
	return start(t, "agent", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
}

// TestUnprivileged runs a pair, and is refused the rest, as another user.
func TestUnprivileged(t *testing.T) {
	c := nobody(t)
	if got := c.ask("probe inherit"); got != "works" {
		t.Errorf("inherit: %s", got)
	}
	addr := c.ask("pair 127.0.0.1:0")
	c.ask("point node")
	c.ask("point agent")
	wantWho(t, addr, "agent")
	for command, want := range map[string]string{
		"probe steer":       "CAP_NET_ADMIN",
		"opensteer /sys/no": "BPF file system",
	} {
		if got := c.try(command); !strings.HasPrefix(got, "error") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want an error that names %s", command, got, want)
		}
	}
}

func TestTakeNotPermitted(t *testing.T) {
	node := start(t, "node", nil)
	at := node.ask("listen 127.0.0.1:0")
	c := nobody(t)
	got := c.try("steer tcp 127.0.0.1:1 " + strconv.Itoa(node.pid()) + " " + at)
	if !strings.Contains(got, ErrNotPermitted.Error()) || !strings.Contains(got, "CAP_SYS_PTRACE") {
		t.Errorf("%q", got)
	}
}

func TestFamily(t *testing.T) {
	nodeLife, life, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer life.Close()
	defer nodeLife.Close()
	agent := start(t, "agent", nil, os.Stderr, nodeLife)
	agent.ask("pair 127.0.0.1:0")
	pid := atoi(t, agent.ask("child"))
	defer killNode(t, pid)
	got, err := Family(agent.pid())
	if err != nil {
		t.Fatal(err)
	}
	if got[0] != agent.pid() || !slices.Contains(got, pid) || slices.Contains(got, os.Getpid()) {
		t.Errorf("family of %d: %v, want it with %d", agent.pid(), got, pid)
	}
}

func TestProbe(t *testing.T) {
	for _, k := range []Kind{KindInherit, KindTake} {
		if err := Probe(k); err != nil {
			t.Skipf("not here: %v", err)
		}
	}
	if err := Probe("magic"); !errors.Is(err, ErrNotSupported) {
		t.Errorf("magic: %v", err)
	}
}

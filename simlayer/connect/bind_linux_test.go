package connect

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openBinder opens a Binder whose cgroup ends with the test.
func openBinder(t testing.TB) *Binder {
	t.Helper()
	o := newOptions(t)
	b, err := OpenBinder(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		path := b.Cgroup().Name()
		if err := errors.Join(b.Close(), b.Close(), RemoveCgroup(o), RemoveCgroup(o)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the cgroup is still there: %v", err)
		}
	})
	return b
}

// groupAt opens a socket that others of its user may join.
func groupAt(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) (failed error) {
		err := rc.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, failed)
	}}
	pc, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		t.Skip("cannot listen: ", err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// freeAt is an address where nobody is.
func freeAt(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Skip("cannot listen: ", err)
	}
	defer pc.Close()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// TestBind has software that knows of nothing bind another address than it says, and
// answer from there.
func TestBind(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			b := openBinder(t)
			node := start(t, "node", b.Cgroup())
			private, group := freeAt(t, addr), groupAt(t, addr)
			if err := b.Set(addrs{private: group}); err != nil {
				t.Fatal(err)
			}
			want(t, "the software's socket", node.ask("bind %s", private), group.String())
			// Two are in the group now, and callers are spread over them.
			answered := false
			for range 200 {
				c, err := net.Dial("udp", group.String())
				if err != nil {
					t.Fatal(err)
				}
				_, _ = c.Write([]byte("?"))
				_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				buf := make([]byte, 10)
				n, _ := c.Read(buf)
				c.Close()
				if answered = string(buf[:n]) == "node"; answered {
					break
				}
			}
			if !answered {
				t.Error("the software got none of the datagrams")
			}
			// It may close it and bind it again, and another process may.
			want(t, "another socket", node.ask("bind %s again", private), group.String())
		})
	}
}

// TestBindLeavesAlone shows what is bound as its software says.
func TestBindLeavesAlone(t *testing.T) {
	b := openBinder(t)
	group := groupAt(t, "127.0.0.1:0")
	// fresh is an address that would be replaced.
	fresh := func() netip.AddrPort {
		private := freeAt(t, "127.0.0.1:0")
		if err := b.Set(addrs{private: group}); err != nil {
			t.Fatal(err)
		}
		return private
	}
	node := start(t, "node", b.Cgroup())
	private := greeter(t, "tcp", "127.0.0.1:0")
	if err := b.Set(addrs{private: group}); err != nil {
		t.Fatal(err)
	}
	if said := node.ask("bind %s tcp", private); !strings.Contains(said, "address already in use") {
		t.Errorf("TCP: %s, want %s, which is taken", said, private)
	}
	fresh()
	other := freeAt(t, "127.0.0.1:0")
	want(t, "another address", node.ask("bind %s", other), other.String())
	private = fresh()
	want(t, "outside", start(t, "node", nil).ask("bind %s", private), private.String())
	private = fresh()
	mapped := netip.AddrPortFrom(netip.AddrFrom16(private.Addr().As16()), private.Port())
	want(t, "IPv4 by an IPv6 socket", node.ask("bindMapped %s", private), mapped.String())
	private = fresh()
	want(t, "shared among its own", node.ask("bind %s shared", private), private.String())
	private = fresh()
	want(t, "another user", start(t, "node", b.Cgroup()).ask("bind %s nobody", private), private.String())
	private = fresh()
	if err := b.Set(nil); err != nil {
		t.Fatal(err)
	}
	want(t, "not any more", node.ask("bind %s", private), private.String())
	if err := b.Set(addrs{private: public6}); err == nil {
		t.Error("an address of another family was taken")
	}
	path := b.Cgroup().Name()
	busy := Options{Cgroup: filepath.Dir(path), Name: filepath.Base(path)}
	if err := RemoveCgroup(busy); err != nil { // its processes are in it
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Set(nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

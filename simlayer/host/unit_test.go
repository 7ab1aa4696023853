//go:build unix

package host

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/testdata/kit"
)

func TestQueue(t *testing.T) {
	var q queue
	now := time.Now()
	for i, step := range []struct {
		n       int
		stalled time.Duration // in looks
		moved   bool
	}{
		{0, 0, false}, {1, 0, false}, {1, 1, false}, {3, 2, false}, // nobody is taken
		{2, 0, true}, {2, 1, true}, {5, 2, true}, {0, 0, true}, {0, 0, true}, {1, 0, true},
	} {
		now = now.Add(lookPause)
		if got := q.look(step.n, now); got != step.stalled*lookPause || q.moved != step.moved {
			t.Errorf("look %d at %d: %v, moved %v, want %v, %v", i, step.n, got, q.moved, step.stalled*lookPause, step.moved)
		}
	}
}

func TestNextOf(t *testing.T) {
	s := Objects{Native: 3, Node: map[string]string{"api": "node:1"}, List: []Object{
		{Version: 1, To: 2, Kind: KindExec, Argv: []string{"x"}, State: "/s"}, {Version: 2, To: 3, Kind: KindCompatible},
		{Version: 4, To: 3, Kind: KindRefuse}, {Version: 5, To: 4, Kind: KindCompatible}, {Version: 6, To: 5, Kind: KindCompatible},
	}}
	all, err := s.byVersion()
	if err != nil {
		t.Fatal(err)
	}
	addrs := func(v bundle.Version, service string) string {
		return map[bundle.Version]string{1: "exec:1", 4: "refuse:1"}[v]
	}
	for v, want := range map[bundle.Version]string{1: "exec:1", 2: "node:1", 3: "node:1", 4: "refuse:1", 5: "refuse:1", 6: "refuse:1", 7: ""} {
		if got := s.nextOf(v, "api", all, addrs); got != want {
			t.Errorf("calls of version %d go to %q, want %q", v, got, want)
		}
	}
}

func TestSocketFolder(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := t.TempDir()
	path, err := socketFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(path)
	if len(path)+longestSocket > maxSocketPath {
		t.Errorf("%s is too long", path)
	}
	// What an agent that was killed has left goes.
	if err := os.WriteFile(filepath.Join(path, "1-api.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := socketFolder(dir)
	if err != nil || again != path {
		t.Fatalf("%s %v, want %s", again, err, path)
	}
	if left, err := os.ReadDir(path); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	// And all of it, where no host follows.
	if err := os.WriteFile(filepath.Join(path, "1-api.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // where it is gone, too
		if err := RemoveSockets(dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	if _, err := socketFolder(dir); err != nil {
		t.Fatal(err)
	}
	// One that others may enter, or that is a link, is not used.
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := makePrivate(path); err == nil {
		t.Error("a folder that others may enter was taken")
	}
	if err := RemoveSockets(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("what is not its own is removed: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if err := makePrivate(link); err == nil {
		t.Error("a link was taken")
	}
}

// The checks of the tests under load can fail.
func TestLoadCatches(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{})
	set(t, h, 2, n.addr, Object{Version: 1, To: 2, Kind: KindRules, Path: rulesFile(t, `
call "PUT /v1/{key}" {
  next "PUT /v2/{key}" {
    body = "{f2: .body.f1}"
  }
  response "*" {
    body = "{r1: \"planted\"}"
  }
}
default {
  pass = true
}`)})
	l := putLoad(t, h.Addrs(1)["api"], 1, 1)
	kit.Until(t, "a wrong answer", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.wrong) > 0 })
	close(l.stop)
	l.work.Wait()
	if l.ok.Load() > 0 {
		t.Error("wrong answers were taken for right")
	}
}

// An object that calls next without end fails its own calls.
func TestBridgeFull(t *testing.T) {
	n := startNode(t, 2)
	b, err := newBridge(Service{Name: "api", Protocol: bundle.ProtocolTCP}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.mu.Lock()
	b.most = 4
	b.mu.Unlock()
	b.lead(n.addr, time.Minute)
	say := func() (net.Conn, error) {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			return nil, err
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = fmt.Fprint(c, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n")
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
	var some []net.Conn
	for range 2 {
		c, err := say()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		some = append(some, c)
	}
	if _, err := say(); err == nil {
		t.Error("a third connection is carried")
	}
	some[0].Close()
	kit.Until(t, "room again", func() bool {
		c, err := say()
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

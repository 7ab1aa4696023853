package line

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/testdata/line/internal/serve"
	"moult/testdata/line/line1"
	"moult/testdata/line/line2"
)

// listen serves open, and ends it with the test.
func listen(t *testing.T, open func(net.Conn) serve.Answer) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve.Serve(ctx, ln, open) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func open1(t *testing.T, dir string) *line1.Store {
	t.Helper()
	s, err := line1.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func open2(t *testing.T, dir string) *line2.Store {
	t.Helper()
	s, err := line2.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	var r line1.Refused
	if !errors.As(err, &r) || !strings.Contains(string(r), want) {
		t.Errorf("%v, want a refusal with %q", err, want)
	}
}

type client interface {
	Get(key string) (string, bool, error)
	Put(key, value string) error
}

func expect(t *testing.T, c client, key, want string, there bool) {
	t.Helper()
	if got, ok, err := c.Get(key); err != nil || ok != there || got != want {
		t.Errorf("%s: %q %v %v, want %q %v", key, got, ok, err, want, there)
	}
}

func TestNodes(t *testing.T) {
	one := line1.NewClient(dial(t, listen(t, open1(t, t.TempDir()).Answer)))
	two := line2.NewClient(dial(t, listen(t, open2(t, t.TempDir()).Answer)))
	for _, c := range []client{one, two} {
		expect(t, c, "k", "", false)
		for _, v := range []string{"a text, with: all", "", strings.Repeat("x", line1.MaxText)} {
			if err := c.Put("k", v); err != nil {
				t.Fatal(err)
			}
			expect(t, c, "k", v, true)
		}
		refused(t, c.Put("k", strings.Repeat("x", line1.MaxText+1)), "at most")
		_, _, err := c.Get(strings.Repeat("k", line1.MaxKey+1))
		refused(t, err, "a key is")
	}
	if err := two.Put("k", "two\nlines\x00"); err != nil {
		t.Fatal(err)
	}
	expect(t, two, "k", "two\nlines\x00", true)
	if err := two.Delete("k"); err != nil {
		t.Fatal(err)
	}
	expect(t, two, "k", "", false)
}

// Writes outlive the node; what a crash has left of one does not.
func TestStateAndMigration(t *testing.T) {
	dir1, dir2, future := t.TempDir(), t.TempDir(), t.TempDir()
	s := open1(t, dir1)
	if err := errors.Join(s.Set("a", "1"), s.Set("b", "2"), s.Set("a", "3"), s.Close()); err != nil {
		t.Fatal(err)
	}
	appendTo(t, filepath.Join(dir1, "data"), "c 4")
	s = open1(t, dir1)
	if got, _ := s.Get("a"); got != "3" {
		t.Errorf("a is %q", got)
	}
	if _, ok := s.Get("c"); ok {
		t.Error("half a line counts")
	}
	if err := os.WriteFile(filepath.Join(future, "number"), []byte("5000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a migration may be run again
		if err := line2.Migrate(dir1, future, dir2); err != nil {
			t.Fatal(err)
		}
	}
	c := line2.NewClient(dial(t, listen(t, open2(t, dir2).Answer)))
	expect(t, c, "a", "3", true)
	expect(t, c, "b", "2", true)
	if err := c.Put("d", "5"); err != nil || c.Last != 5003 {
		t.Errorf("write %d, %v, want 5003: numbers go on from those of the object", c.Last, err)
	}
	appendTo(t, filepath.Join(dir2, "log"), "20:4:5004,1:e")
	c = line2.NewClient(dial(t, listen(t, open2(t, dir2).Answer)))
	expect(t, c, "d", "5", true)
	expect(t, c, "e", "", false)
	if _, err := line1.Open(dir2); err == nil {
		t.Error("version 1 opened a state of version 2")
	}
	if _, err := line2.Open(dir1); err == nil {
		t.Error("version 2 opened a state of version 1")
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestObjects(t *testing.T) {
	one, two := open1(t, t.TempDir()), open2(t, t.TempDir())
	dialer := func(addr string) func() (net.Conn, error) {
		return func() (net.Conn, error) { return net.Dial("tcp", addr) }
	}
	addr1, addr2 := listen(t, one.Answer), listen(t, two.Answer)
	past, err := line2.Past(dialer(addr2), "")
	if err != nil {
		t.Fatal(err)
	}
	future, err := line2.Future(dialer(addr1), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	old, young := line1.NewClient(dial(t, listen(t, past))), line2.NewClient(dial(t, listen(t, future)))
	for _, c := range []client{old, young} {
		expect(t, c, "k", "", false)
		if err := c.Put("k", "v w"); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "k", "v w", true)
	}
	if err := young.Put("k", "again"); err != nil || young.Last != 2 {
		t.Errorf("write %d, %v, want 2", young.Last, err)
	}
	refused(t, young.Put("k", "two\nlines"), "denied")
	refused(t, young.Delete("k"), "denied")
	if err := line2.NewClient(dial(t, addr2)).Put("k", "two\nlines"); err != nil {
		t.Fatal(err)
	}
	_, _, err = old.Get("k")
	refused(t, err, "denied")
}

package grpckv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"moult/simlayer/so"
)

// node starts a node of a version on a state and returns its address.
func node(t *testing.T, version int, state string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, version, ln, state) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("node: %v", err)
		}
	})
	return ln.Addr().String()
}

func client(t *testing.T, version int, addr string) *Client {
	t.Helper()
	c, err := Dial(version, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// object parses one of the author's rules files.
func object(t *testing.T, name string) *so.Rules {
	t.Helper()
	data, err := Files.ReadFile("rules/" + name)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := so.ParseRules(data, name)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// front answers callers of another version at a node by an object, and returns
// its address.
func front(t *testing.T, o so.Object, node string) string {
	t.Helper()
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	next := &http.Transport{Protocols: &h2c}
	t.Cleanup(next.CloseIdleConnections)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := o.Answer(r, toNode{node, next})
		if err != nil {
			so.AsRefusal(err).WriteTo(w, r)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
		for k, v := range resp.Trailer {
			w.Header()[http.TrailerPrefix+k] = v
		}
	}))
	srv.Config.Protocols = &h2c
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

type toNode struct {
	host string
	next http.RoundTripper
}

func (n toNode) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.RequestURI = "http", n.host, ""
	return n.next.RoundTrip(r)
}

func want(t *testing.T, what string, err error, code codes.Code, says string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || !strings.Contains(s.Message(), says) {
		t.Errorf("%s: %v, want %v with %q", what, err, code, says)
	}
}

// basics are the calls that every version has.
func basics(t *testing.T, c *Client) {
	t.Helper()
	ctx := t.Context()
	_, err := c.Get(ctx, "k")
	want(t, "get what is not there", err, codes.NotFound, `"k"`)
	for i := range 3 {
		want(t, "set", c.Set(ctx, fmt.Sprintf("k%d", i), "é✓\x00"), codes.OK, "")
	}
	want(t, "set without a key", c.Set(ctx, "", "v"), codes.InvalidArgument, "want a key")
	got, err := c.Get(ctx, "k1")
	if err != nil || got != "é✓\x00" {
		t.Errorf("get: %q, %v", got, err)
	}
	keys, err := c.List(ctx)
	if err != nil || !slices.Equal(keys, []string{"k0", "k1", "k2"}) {
		t.Errorf("list: %q, %v", keys, err)
	}
}

func TestVersions(t *testing.T) {
	ctx, state := t.Context(), t.TempDir()
	c := client(t, 1, node(t, 1, state))
	basics(t, c)
	_, err := c.Delete(ctx, "k0")
	want(t, "delete", err, codes.Unimplemented, "Delete")
	want(t, "clear", c.Clear(ctx), codes.OK, "")
	basics(t, c)

	// Version 2 finds what version 1 left.
	c = client(t, 2, node(t, 2, state))
	if keys, err := c.List(ctx); err != nil || len(keys) != 3 {
		t.Errorf("list: %q, %v", keys, err)
	}
	_, err = c.Delete(ctx, "k0")
	want(t, "delete", err, codes.OK, "")
	_, err = c.Delete(ctx, "k0")
	want(t, "delete again", err, codes.NotFound, `"k0"`)

	c = client(t, 3, node(t, 3, state))
	if got, err := c.Delete(ctx, "k1"); err != nil || got != "é✓\x00" {
		t.Errorf("remove: %q, %v", got, err)
	}
	want(t, "swap", c.Swap(ctx, "k2", "é✓\x00", "new"), codes.OK, "")
	want(t, "swap again", c.Swap(ctx, "k2", "é✓\x00", "new"), codes.FailedPrecondition, "another value")
	want(t, "clear", c.Clear(ctx), codes.Unimplemented, "Clear")
}

// Version 2 may be called by whoever knows version 1, and the other way round:
// "compatible = true" is true.
func TestCompatible(t *testing.T) {
	basics(t, client(t, 1, node(t, 2, t.TempDir())))
	c := client(t, 2, node(t, 1, t.TempDir()))
	basics(t, c)
	_, err := c.Delete(t.Context(), "k0")
	want(t, "delete", err, codes.Unimplemented, "Delete")
}

func TestRules(t *testing.T) {
	ctx := t.Context()
	for _, name := range []string{"past-3.hcl", "future-3.hcl"} {
		rules := object(t, name)
		results := rules.Test()
		if err := so.Failed(results); err != nil || len(results) < 2 || !rules.Bounded() {
			t.Errorf("%s: %d examples, bounded %v, %v", name, len(results), rules.Bounded(), err)
		}
	}
	t.Run("version 2 at 3", func(t *testing.T) {
		addr := node(t, 3, t.TempDir())
		c := client(t, 2, front(t, object(t, "past-3.hcl"), addr))
		basics(t, c)
		_, err := c.Delete(ctx, "k0")
		want(t, "delete", err, codes.OK, "")
		_, err = c.Delete(ctx, "k0")
		want(t, "delete again", err, codes.NotFound, `"k0"`)
		if keys, err := client(t, 3, addr).List(ctx); err != nil || len(keys) != 2 {
			t.Errorf("the node has %q, %v", keys, err)
		}
		want(t, "clear", c.Clear(ctx), codes.Unimplemented, "cannot remove all keys in one step")
		if keys, err := c.List(ctx); err != nil || len(keys) != 2 {
			t.Errorf("after the denied clear: %q, %v", keys, err)
		}
	})
	t.Run("version 3 at 2", func(t *testing.T) {
		c := client(t, 3, front(t, object(t, "future-3.hcl"), node(t, 2, t.TempDir())))
		basics(t, c)
		_, err := c.Delete(ctx, "k0")
		want(t, "remove", err, codes.Unimplemented, "does not say what it removed")
		want(t, "swap", c.Swap(ctx, "k0", "é✓\x00", "new"), codes.Unimplemented, "cannot compare and write")
		if got, err := c.Get(ctx, "k0"); err != nil || got != "é✓\x00" {
			t.Errorf("after the denied calls: %q, %v", got, err)
		}
	})
}

func TestStoreOutlivesTheNode(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Change(func(v map[string]string) error { v["k"] = "v"; return nil }); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenStore(dir); err != nil {
		t.Fatal(err)
	}
	if v, ok := s.Get("k"); !ok || v != "v" {
		t.Errorf("got %q, %v", v, ok)
	}
	if err := os.WriteFile(filepath.Join(dir, "values.json"), []byte(`{"k":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(dir); err == nil {
		t.Error("half a state was opened")
	}
}

func TestMisuse(t *testing.T) {
	for _, args := range [][]string{nil, {"x"}, {"4", "--listen", "127.0.0.1:0", "--state", t.TempDir()}, {"1"}, {"1", "--listen", "127.0.0.1:0"}, {"1", "--state", "s", "surplus"}} {
		var out bytes.Buffer
		if err := run(t.Context(), args, func(string) string { return "" }, &out, &out); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

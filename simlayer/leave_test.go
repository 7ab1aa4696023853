package simlayer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// heir keeps sockets as a service manager does: what is kept of one layer is there for the next.
type heir struct {
	mu   sync.Mutex
	left map[string]*os.File
	kept map[string]*os.File
}

func (h *heir) Take(name string) *os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.left[name]
	delete(h.left, name)
	return f
}

func (h *heir) Keep(name string, f *os.File) {
	h.Drop(name)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept[name] = f
}

func (h *heir) Drop(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.kept[name]; f != nil {
		f.Close()
	}
	delete(h.kept, name)
}

func (h *heir) Done() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, f := range h.left {
		f.Close()
		delete(h.left, name)
	}
}

// pass makes what is kept what is left.
func (h *heir) pass() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left, h.kept = h.kept, map[string]*os.File{}
}

func newHeir(t *testing.T) *heir {
	h := &heir{left: map[string]*os.File{}, kept: map[string]*os.File{}}
	t.Cleanup(func() {
		h.Done()
		h.pass()
		h.Done()
	})
	return h
}

// leaving is a layer that another one follows, again and again.
type leaving struct {
	t       *testing.T
	routing Routing
	cfg     func(*Config)
	now     *Layer
}

func (l *leaving) start() {
	l.t.Helper()
	l.now = startLayer(l.t, bundle.ProtocolHTTP, l.cfg)
	apply(l.t, l.now, l.routing)
}

// replace has one layer follow the other.
func (l *leaving) replace(h *heir, between func()) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	l.now.Leave(ctx)
	if ctx.Err() != nil {
		l.t.Error("the layer waited for calls that do not end")
	}
	l.now.Close()
	h.pass()
	if between != nil {
		between()
	}
	l.start()
}

// Callers of the node's own version and of another, with connections that they keep and
// without, call on while one layer follows the other, and none of their calls fails. Nobody
// but the layer tries again: net/http does not where a body cannot be had anew.
func TestLeave(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]Attach{"relay": AttachRelay, "inherit": AttachInherit} {
		t.Run(name, func(t *testing.T) { testLeave(t, way) })
	}
}

func testLeave(t *testing.T, way Attach) {
	if way == AttachInherit {
		if err := attach.Probe(attach.KindInherit); err != nil {
			t.Skip("sockets cannot be inherited here: ", err)
		}
	}
	s := &state{values: map[string]string{}}
	node := software(t, 2, s)
	h := newHeir(t)
	l := &leaving{t: t,
		routing: Routing{Native: 2, Backends: backends(addrOf(node)), Objects: InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)})},
		cfg: func(c *Config) {
			c.Services = map[string]Service{"api": {Public: "127.0.0.1:0", Protocol: bundle.ProtocolHTTP, Attach: way}}
			c.Sockets = h
		},
	}
	l.start()
	public := publicURL(l.now) // the next layers have it, since they have the socket

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var callers sync.WaitGroup
	var done [4]atomic.Int64
	for i, url := range []string{public + "/v2/keys/a", public + "/v2/keys/b", versionURL(t, l.now, 1) + "/v1/keys/c", versionURL(t, l.now, 1) + "/v1/keys/d"} {
		client := newClient(t)
		client.Transport.(*http.Transport).DisableKeepAlives = i%2 == 1
		field := url[strings.Index(url, "/v")+2 : strings.Index(url, "/keys")]
		callers.Go(func() {
			for ctx.Err() == nil {
				body := io.MultiReader(strings.NewReader(fmt.Sprintf(`{"f%s":"x"}`, field))) // a body that net/http cannot get again
				req, _ := http.NewRequest("PUT", url, body)
				resp, err := client.Do(req)
				if err != nil {
					t.Errorf("after %d calls: %v", done[i].Load(), err)
					return
				}
				if resp.StatusCode != http.StatusOK {
					t.Errorf("after %d calls: %s", done[i].Load(), resp.Status)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				done[i].Add(1)
			}
		})
	}
	called := func(what string) {
		t.Helper()
		var before [4]int64
		for i := range done {
			before[i] = done[i].Load()
		}
		for i := range done {
			eventually(t, what, func() bool { return done[i].Load() > before[i] || t.Failed() })
		}
	}
	called("calls at the first layer")
	for range 2 {
		l.replace(h, nil)
		called("calls at the next layer")
	}
	stop()
	callers.Wait()
}

// Who calls while there is no layer waits for the next one; without a Keeper they are refused.
func TestLeaveHolds(t *testing.T) {
	t.Parallel()
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "here") }))
	t.Cleanup(node.Close)
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprintf("kept=%v", kept), func(t *testing.T) {
			h := newHeir(t)
			l := &leaving{t: t, routing: Routing{Native: 1, Backends: backends(addrOf(node))}}
			at := "127.0.0.1:0"
			l.cfg = func(c *Config) {
				c.Services = map[string]Service{"api": {Public: at, Protocol: bundle.ProtocolHTTP}}
				if kept {
					c.Sockets = h
				}
			}
			l.start()
			at = l.now.Addresses()["api"].Public
			var conn net.Conn
			l.replace(h, func() {
				var err error
				conn, err = net.Dial("tcp", at)
				switch {
				case (err == nil) != kept:
					t.Errorf("connected between two layers: %v", err)
				case kept:
					fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				}
			})
			if !kept {
				return
			}
			defer conn.Close()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(resp.Body); string(body) != "here" {
				t.Errorf("%s: %s", resp.Status, body)
			}
		})
	}
}

// An answer that is on when the layer is to leave comes whole; one that does not end is not
// waited for.
func TestLeaveFinishes(t *testing.T) {
	t.Parallel()
	reached, more := make(chan bool, 2), make(chan bool)
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			reached <- true
			<-r.Context().Done()
		case "/slow":
			reached <- true
			<-more
			fmt.Fprint(w, "whole")
		}
	}))
	t.Cleanup(node.Close)
	h := newHeir(t)
	l := &leaving{t: t, routing: Routing{Native: 1, Backends: backends(addrOf(node))}, cfg: func(c *Config) { c.Sockets = h }}
	l.start()
	url := publicURL(l.now)
	events, err := newClient(t).Get(url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()
	slow := make(chan string)
	go func() {
		r, err := do(newClient(t), "GET", url+"/slow", "")
		slow <- fmt.Sprint(r.body, err)
	}()
	<-reached
	<-reached
	left := make(chan bool)
	go func() {
		l.now.Leave(context.Background())
		close(left)
	}()
	eventually(t, "callers are led to the next layer", func() bool {
		for _, f := range l.now.listeners() {
			if !f.Weaned() {
				return false
			}
		}
		return true
	})
	select {
	case <-left:
		t.Error("the layer left within a call")
	default:
	}
	close(more)
	if got := <-slow; got != "whole<nil>" {
		t.Errorf("the answer that was on: %s", got)
	}
	<-left
}

// What the next layer has no use for is closed, and its callers refused: a socket at which
// nobody accepts would have them wait.
func TestLeaveForgoes(t *testing.T) {
	t.Parallel()
	node := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(node.Close)
	h := newHeir(t)
	object := InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)})
	l := &leaving{t: t, routing: Routing{Native: 2, Backends: backends(addrOf(node)), Objects: object}, cfg: func(c *Config) { c.Sockets = h }}
	l.start()
	public, versioned := l.now.Addresses()["api"].Public, l.now.Addresses()["api"].Versions[1]
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // at once
	l.now.Leave(ctx)
	l.now.Close()
	for _, addr := range []string{public, versioned} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("%s is not kept: %v", addr, err)
		}
		conn.Close()
	}
	h.pass()
	l.routing.Objects = nil // and another public address, of any port
	l.cfg = func(c *Config) {
		c.Services = map[string]Service{"api": {Public: "127.0.0.2:0", Protocol: bundle.ProtocolHTTP}}
		c.Sockets = h
	}
	l.start()
	for _, addr := range []string{public, versioned} {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			t.Errorf("%s is there, and nobody accepts", addr)
		}
	}
	// A listener that is retired is not kept for anybody.
	l.routing.Objects = object
	apply(t, l.now, l.routing)
	versioned = l.now.Addresses()["api"].Versions[1]
	l.routing.Objects = nil
	apply(t, l.now, l.routing)
	if conn, err := net.Dial("tcp", versioned); err == nil {
		conn.Close()
		t.Errorf("%s is retired, and kept", versioned)
	}
}

// Datagrams that come between two layers are answered by the next one.
func TestLeavePackets(t *testing.T) {
	t.Parallel()
	node, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := node.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = node.WriteTo(buf[:n], from)
		}
	}()
	h := newHeir(t)
	at := "127.0.0.1:0"
	l := &leaving{t: t, routing: Routing{Native: 1, Backends: backends(node.LocalAddr().String())}, cfg: func(c *Config) {
		c.Services = map[string]Service{"api": {Public: at, Protocol: bundle.ProtocolUDP}}
		c.Sockets = h
	}}
	l.start()
	at = l.now.Addresses()["api"].Public
	conn, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l.replace(h, func() {
		if _, err := conn.Write([]byte("between")); err != nil {
			t.Errorf("there is no socket: %v", err)
		}
	})
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "between" {
		t.Errorf("answered %q, %v", buf[:n], err)
	}
}

// Sockets that software has left behind are given up with the layer's own.
func TestLeaveStrays(t *testing.T) {
	t.Parallel()
	h := newHeir(t)
	l := startLayer(t, bundle.ProtocolHTTP, func(c *Config) { c.Sockets = h })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.apply.Lock()
	l.takeStrays(l.listeners()[0], ln, true)
	l.apply.Unlock()
	l.Leave(t.Context())
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		conn.Close()
		t.Error("the socket is still there")
	}
}

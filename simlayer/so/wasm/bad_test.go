package wasm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"

	"moult/simlayer/so"
)

// pass returns a guest that passes every call on.
func pass() []byte { return newAsm().handler(i64(1)).bytes() }

// node answers every call with 200 and the request's body.
var node = roundTripper(func(r *http.Request) (*http.Response, error) {
	body := io.NopCloser(strings.NewReader(""))
	if r.Body != nil {
		body = r.Body
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body, ContentLength: r.ContentLength, Request: r}, nil
})

// badGuests are guests that fail their calls, with what their callers get.
func badGuests() map[string]struct {
	guest  []byte
	status int
	reason string
} {
	type bad = struct {
		guest  []byte
		status int
		reason string
	}
	bads := map[string]bad{}
	add := func(name string, a *asm, status int, reason string, code ...[]byte) {
		bads[name] = bad{a.handler(code...).bytes(), status, reason}
	}
	const slow, slowText = http.StatusGatewayTimeout, "did not end within"
	const trap = http.StatusInternalServerError

	add("an endless loop", newAsm(), slow, slowText, loop(br0), i64(0))
	add("a loop in a loop", newAsm(), slow, slowText, loop(loop(i32(0), []byte{0x0d, 0}), br0), i64(0))

	a := newAsm()
	a.fn("", "", 0, callF(1))
	a.fn("", "", 0, callF(0))
	add("recursion without end", a, trap, "stack overflow", callF(0), i64(0))

	a = newAsm()
	a.fn("i", "i", 200, get(0), i32(1), []byte{0x6b}, callF(0), i32(1), []byte{0x6a})
	add("recursion with results", a, trap, "stack overflow", i32(0), callF(0), drop, i64(0))

	a = newAsm()
	a.fn("i", "", 0, get(0), []byte{0x45, 0x04, 0x40, 0x0f, 0x0b}, // if it is 0, return
		get(0), i32(1), []byte{0x6b}, callF(0), get(0), i32(1), []byte{0x6b}, callF(0))
	add("an exponential tree of calls", a, slow, slowText, i32(60), callF(0), i64(0))

	a = newAsm()
	f := a.imp("http_handler", "get_status_code", "", "i")
	add("a loop of host calls", a, slow, slowText, loop(callF(f), drop, br0), i64(0))

	add("growing without end", newAsm(), slow, slowText, loop(i32(1), memoryGrow, drop, br0), i64(0))
	add("filling without end", newAsm(), slow, slowText, i32(60), memoryGrow, drop,
		loop(i32(0), i32(7), i32(60<<16), memoryFill, br0), i64(0))
	add("memory that is not there", newAsm(), trap, "out of bounds memory access", i32(1<<20), []byte{0x28, 2, 0}, drop, i64(0))
	add("a trap", newAsm(), trap, "unreachable", unreachable)
	add("a division by zero", newAsm(), trap, "integer divide by zero", i32(1), i32(0), []byte{0x6d}, drop, i64(0))

	a = newAsm()
	f = a.imp("http_handler", "get_method", "ii", "i")
	add("a pointer outside of the memory", a, trap, "not all in its memory", i32(-4), i32(64), callF(f), drop, i64(0))

	a = newAsm()
	a.data = "GET/"
	n := a.imp("moult", "next_new", "iiii", "i")
	f = a.imp("moult", "next_send", "i", "i")
	add("a flood of next", a, http.StatusLoopDetected, "more than 64 calls",
		loop(i32(0), i32(3), i32(3), i32(1), callF(n), callF(f), drop, br0), i64(0))

	a = newAsm()
	f = a.imp("http_handler", "add_header_value", "iiiii", "")
	a.data = "X"
	add("huge headers", a, trap, "bytes of headers",
		i32(0), i32('a'), i32(4096), memoryFill,
		loop(i32(0), i32(0), i32(1), i32(1), i32(4000), callF(f), br0), i64(1))

	a = newAsm()
	f = a.imp("http_handler", "set_header_value", "iiiii", "")
	a.data = "X\r\nY: 1"
	add("a header with a line end", a, trap, "line end",
		i32(0), i32(0), i32(1), i32(0), i32(7), callF(f), i64(1))

	a = newAsm()
	f = a.imp("http_handler", "write_body", "iii", "")
	add("an endless body", a, trap, "a body of more than", loop(i32(1), i32(0), i32(65536), callF(f), br0), i64(0))

	a = newAsm()
	f = a.imp("http_handler", "log", "iii", "")
	add("a flood of lines", a, slow, slowText, loop(i32(0), i32(0), i32(10), callF(f), br0), i64(0))

	a = newAsm()
	f = a.imp("http_handler", "set_status_code", "i", "")
	add("a status that is none", a, trap, "the status 99", i32(99), callF(f), i64(0))

	a = newAsm()
	a.data = "k"
	f = a.imp("moult", "state_set", "iiii", "i")
	add("state where there is none", a, trap, "has none", i32(0), i32(1), i32(0), i32(1), callF(f), drop, i64(0))

	a = newAsm()
	f = a.imp("moult", "next_send", "i", "i")
	add("a call that was not made", a, trap, "has not made", i32(7), callF(f), drop, i64(0))

	a = newAsm()
	f = a.imp("wasi_snapshot_preview1", "proc_exit", "i", "")
	add("an exit", a, trap, "exited with status 3", i32(3), callF(f), i64(0))
	return bads
}

func TestBadGuests(t *testing.T) {
	good := open(t, pass(), nil)
	for name, c := range badGuests() {
		t.Run(name, func(t *testing.T) {
			status := c.status
			o := open(t, c.guest, func(c *Config) {
				if c.Limits.CallTime = 50 * time.Millisecond; status != http.StatusGatewayTimeout {
					c.Limits.CallTime = time.Minute // it ends by itself
				}
				c.Limits.Instances, c.Limits.Pages, c.Limits.Body = 2, 64, 1<<20
			})
			for range 2 {
				_, err := o.Answer(httptest.NewRequest("POST", "/a", strings.NewReader("body")), node)
				var r *so.Refusal
				if !errors.As(err, &r) {
					t.Fatalf("got %v, want a refusal", err)
				}
				if r.Status != c.status || r.Denied || !strings.Contains(r.Reason, c.reason) || strings.Contains(r.Reason, "\n") {
					t.Fatalf("got %d %q, want %d and %q", r.Status, r.Reason, c.status, c.reason)
				}
			}
			if resp, err := good.Answer(httptest.NewRequest("GET", "/", nil), node); err != nil || resp.StatusCode != 200 {
				t.Errorf("another object does not answer: %v", err)
			}
		})
	}
}

// TestSpinningGuest shows that a guest that spins holds up nobody: while it does,
// the garbage is collected and other objects answer.
func TestSpinningGuest(t *testing.T) {
	a := newAsm()
	a.data = "GET/"
	n := a.imp("moult", "next_new", "iiii", "i")
	f := a.imp("moult", "next_send", "i", "i")
	a.handler(i32(0), i32(3), i32(3), i32(1), callF(n), callF(f), drop, loop(br0), i64(0))
	o := open(t, a.bytes(), func(c *Config) { c.Limits.CallTime = time.Minute })
	other := open(t, pass(), nil)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spins, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := o.Answer(httptest.NewRequest("GET", "/", nil).WithContext(ctx), roundTripper(func(r *http.Request) (*http.Response, error) {
			close(spins)
			return node(r)
		}))
		ended <- err
	}()
	<-spins
	for range 5 {
		runtime.GC()
		if _, err := other.Answer(httptest.NewRequest("GET", "/", nil), node); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("the guest does not spin: %v", err)
	default:
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that the caller has gone", err)
	}
}

// TestSpinningGuestCatches shows that without the counter the test above would
// fail: the collections end only after the guest's loop.
func TestSpinningGuestCatches(t *testing.T) {
	if testing.Short() {
		t.Skip("spins for seconds")
	}
	ctx := t.Context()
	rt := wazero.NewRuntime(ctx)
	defer rt.Close(ctx)
	starts, over := make(chan struct{}), atomic.Bool{}
	_, err := rt.NewHostModuleBuilder("env").
		NewFunctionBuilder().WithFunc(func() { close(starts) }).Export("start").
		NewFunctionBuilder().WithFunc(func() { over.Store(true) }).Export("over").Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a := newAsm()
	s, e := a.imp("env", "start", "", ""), a.imp("env", "over", "", "")
	a.handler(callF(s), i32(-1), []byte{0x21, 0}, // 2³² - 1 turns
		loop(get(0), i32(1), []byte{0x6b, 0x22, 0, 0x0d, 0}), callF(e), i64(0))
	mod, err := rt.Instantiate(ctx, a.bytes())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := mod.ExportedFunction("handle_request").Call(ctx)
		ended <- err
	}()
	<-starts
	for range 2 {
		runtime.GC()
	}
	if !over.Load() {
		t.Error("the garbage was collected while a guest without the counter was spinning")
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	with := func(module, name, params, results string) []byte {
		a := newAsm()
		a.imp(module, name, params, results)
		return a.handler(i64(0)).bytes()
	}
	started := func(code ...[]byte) []byte {
		a := newAsm()
		a.export("_initialize", 0, a.fn("", "", 0, code...))
		return a.handler(i64(0)).bytes()
	}
	early := newAsm()
	f := early.imp("http_handler", "get_status_code", "", "i")
	early.export("_initialize", 0, early.fn("", "", 0, callF(f), drop))
	bare := newAsm()
	bare.export("handle_request", 0, bare.fn("", "I", 0, i64(0)))
	wrong := newAsm()
	wrong.export("memory", 2, 0).export("handle_request", 0, wrong.fn("", "i", 0, i32(0))).export("handle_response", 0, wrong.fn("ii", "", 0))
	large := newAsm()
	large.pages = cat([]byte{0}, leb(5000))
	huge := newAsm()
	huge.pages = cat([]byte{0}, leb(70000))
	good := pass()
	for _, c := range []struct {
		name, want string
		module     []byte
	}{
		{"empty", "it is empty", nil},
		{"not wasm", "not a WebAssembly module", []byte("#!/bin/sh\n")},
		{"a component", "a component?", []byte("\x00asm\x0d\x00\x01\x00")},
		{"oversize", "at most", make([]byte, MaxModule+1)},
		{"cut off", "a part of 13 bytes in 10", good[:len(good)-3]},
		{"no exports", `no function "handle_request"`, []byte("\x00asm\x01\x00\x00\x00")},
		{"an export missing", `no function "handle_response"`, bare.bytes()},
		{"a wrong signature", "another signature than () -> i64", wrong.bytes()},
		{"an unknown module", "function env.f", with("env", "f", "", "")},
		{"an unknown function", "moult.next_fly, which is not there in version 1", with("moult", "next_fly", "", "")},
		{"an import with a wrong signature", "signature mismatch", with("moult", "deny", "i", "i")},
		{"the host's own function", "not for guests", with("moult_fuel", "tick", "i", "i")},
		{"too much memory", "5000 pages", large.handler(i64(0)).bytes()},
		{"impossible memory", "70000 to start with", huge.handler(i64(0)).bytes()},
		{"a start that spins", "did not end within 50ms", started(loop(br0))},
		{"a start that traps", "unreachable", started(unreachable)},
		{"a start that handles", "while the guest starts", early.handler(i64(0)).bytes()},
		{"a type error", "compile the module", newAsm().handler(i32(0)).bytes()},
		{"tail calls", "tail calls are not supported", newAsm().handler([]byte{0x12, 0}).bytes()},
		{"threads", "threads are not supported", newAsm().handler([]byte{0xfe, 3, 0}).bytes()},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := testConfig(t)
			config.Limits.StartTime = 50 * time.Millisecond
			_, err := Open(t.Context(), c.module, config)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "the object: ") {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := Open(t.Context(), good, Config{}); err == nil || !strings.Contains(err.Error(), "CallTime") {
		t.Errorf("a config without limits: %v", err)
	}
}

// TestBadCache shows that a damaged cache is not used and does not hurt.
func TestBadCache(t *testing.T) {
	guest := pass()
	dir := t.TempDir()
	use := func(c *Config) { c.CacheDir = dir }
	answer := func() {
		t.Helper()
		resp, err := open(t, guest, use).Answer(httptest.NewRequest("GET", "/", nil), node)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("the object does not answer: %v", err)
		}
	}
	answer()
	files, err := filepath.Glob(filepath.Join(dir, "*", "wazero-*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing was cached: %v", err)
	}
	cache := compileCache{dir: filepath.Dir(filepath.Dir(files[0]))}
	for _, damage := range []func(string) error{flip, truncate, empty, link} {
		if err := cache.check(); err != nil {
			t.Fatalf("the cache is not good: %v", err)
		}
		if err := damage(files[0]); err != nil {
			t.Fatal(err)
		}
		if err := cache.check(); err == nil {
			t.Error("the damage was not found")
		}
		answer()
	}
	if err := cache.check(); err != nil {
		t.Errorf("the cache was not made anew: %v", err)
	}
}

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o600)
}

func truncate(path string) error { return os.Truncate(path, 20) }

func empty(path string) error { return os.WriteFile(path, nil, 0o600) }

func link(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Symlink("/dev/zero", path)
}

// TestCompileAhead shows that an object takes what Compile has made, whatever its
// limits.
func TestCompileAhead(t *testing.T) {
	dir := t.TempDir()
	if err := Compile(t.Context(), pass(), dir, testConfig(t).Log); err != nil {
		t.Fatal(err)
	}
	made := func() (list []string) {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		inner, innerErr := filepath.Glob(filepath.Join(dir, "*", "*", "*"))
		if err != nil || innerErr != nil {
			t.Fatal(err, innerErr)
		}
		for _, path := range append(files, inner...) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, fmt.Sprint(path, info.ModTime(), info.Size()))
		}
		return list
	}
	before := made()
	open(t, pass(), func(c *Config) { c.CacheDir, c.Limits.Pages = dir, 16 })
	if after := made(); len(before) < 3 || !slices.Equal(before, after) {
		t.Errorf("there was %q, and now there is %q", before, after)
	}
	if err := Compile(t.Context(), []byte("no module"), dir, testConfig(t).Log); err == nil {
		t.Error("what is no module was compiled")
	}
}

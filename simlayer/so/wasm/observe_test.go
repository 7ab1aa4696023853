package wasm

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"moult/simlayer/so"
)

var aCall = &so.Observed{
	Event: so.ObservedCall, Number: 7, Service: "api", Method: "PUT", URI: "/a%2Fb?x=1", Host: "h",
	Request: so.ObservedMessage{Header: http.Header{"X-A": {"1"}}, Body: []byte("in"), Truncated: true},
	Status:  201, Response: so.ObservedMessage{Header: http.Header{"X-B": {"2"}}, Body: []byte("out")},
}

// A guest finds everything of a call that it is told of where it finds that of its
// own callers' calls, and what it keeps of it in its state.
func TestObserved(t *testing.T) {
	kv, err := OpenFileKV(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := newAsm()
	a.data = "methodurireqrespserviceflagsX-A"
	imports := map[string]uint32{}
	imp := func(module, name, params, results string) { imports[name] = a.imp(module, name, params, results) }
	imp("http_handler", "get_method", "ii", "i")
	imp("http_handler", "get_uri", "ii", "i")
	imp("http_handler", "read_body", "iii", "I")
	imp("http_handler", "get_status_code", "", "i")
	imp("moult", "observed_service", "ii", "i")
	imp("moult", "observed_truncated", "", "i")
	imp("moult", "observed_number", "", "I")
	imp("moult", "state_set", "iiii", "i")
	wrap := []byte{0xa7} // i32.wrap_i64
	set := func(key, n int32, length ...[]byte) []byte {
		return cat(i32(key), i32(n), i32(100), cat(length...), callF(imports["state_set"]), drop)
	}
	a.export("memory", 2, 0)
	a.export("handle_request", 0, a.fn("", "I", 0, i64(1)))
	a.export("handle_response", 0, a.fn("ii", "", 0))
	store8 := []byte{0x3a, 0, 0}
	a.export(HandleObserved, 0, a.fn("i", "", 0,
		set(0, 6, i32(100), i32(100), callF(imports["get_method"])),
		set(6, 3, i32(100), i32(100), callF(imports["get_uri"])),
		set(9, 3, i32(0), i32(100), i32(100), callF(imports["read_body"]), wrap),
		set(12, 4, i32(1), i32(100), i32(100), callF(imports["read_body"]), wrap),
		set(16, 7, i32(100), i32(100), callF(imports["observed_service"])),
		// flags: kind, truncated, number, and whether the status is 201
		i32(100), get(0), store8,
		i32(101), callF(imports["observed_truncated"]), store8,
		i32(102), callF(imports["observed_number"]), wrap, store8,
		i32(103), callF(imports["get_status_code"]), i32(201), []byte{0x46}, store8,
		set(23, 5, i32(4))))
	o := open(t, a.bytes(), func(c *Config) { c.State, c.Observe = kv, true })
	if err := o.Observe(t.Context(), aCall, nil); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"method": "PUT", "uri": "/a%2Fb?x=1", "req": "in", "resp": "out", "service": "api", "flags": "\x01\x01\x07\x01",
	} {
		if got, _, err := kv.Get(key); err != nil || string(got) != want {
			t.Errorf("%s: %q %v, want %q", key, got, err, want)
		}
	}
	for kind, event := range []string{so.ObservedBegin, so.ObservedCall, so.ObservedMissed} {
		if err := o.Observe(t.Context(), &so.Observed{Event: event, Number: 9}, nil); err != nil {
			t.Error(err)
		}
		if got, _, _ := kv.Get("flags"); len(got) < 3 || got[0] != byte(kind) || got[2] != 9 {
			t.Errorf("%s: %q", event, got)
		}
	}
	// Its callers' calls are what they were.
	if status, body := do(t, o, node, "GET", "/", ""); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	if err := o.Observe(t.Context(), &so.Observed{Event: "else"}, nil); so.AsRefusal(err).Status != 501 {
		t.Errorf("an unknown event: %v", err)
	}
}

// An event that a guest does not take in is an error, and nothing else suffers.
func TestObservedFails(t *testing.T) {
	guest := func(code ...[]byte) []byte {
		a := newAsm()
		deny := a.imp("moult", "deny", "iii", "")
		setMethod := a.imp("http_handler", "set_method", "ii", "")
		number := a.imp("moult", "observed_number", "", "I")
		a.data = "no"
		body := map[string][]byte{
			"traps": unreachable, "spins": loop(br0), "denies": cat(i32(0), i32(0), i32(2), callF(deny)),
			"changes": cat(i32(0), i32(2), callF(setMethod)), "fine": nil,
		}[string(code[0])]
		a.handler(callF(number), drop, i64(1))
		a.export(HandleObserved, 0, a.fn("i", "", 0, body))
		return a.bytes()
	}
	for name, want := range map[string]struct {
		status int
		reason string
	}{
		"traps": {500, "unreachable"}, "spins": {504, "did not end within"}, "denies": {501, "no"}, "changes": {500, "set the method"},
	} {
		o := open(t, guest([]byte(name)), func(c *Config) { c.Observe, c.Limits.CallTime = true, 100_000_000 })
		if r := so.AsRefusal(o.Observe(t.Context(), aCall, nil)); r.Status != want.status || !strings.Contains(r.Error(), want.reason) {
			t.Errorf("a guest that %s: %v", name, r)
		}
	}
	o := open(t, guest([]byte("fine")), func(c *Config) { c.Observe = true })
	if err := o.Observe(t.Context(), aCall, nil); err != nil {
		t.Error(err)
	}
	if status, reason := do(t, o, node, "GET", "/", ""); status != 500 || !strings.Contains(reason, "outside of handle_observed") {
		t.Errorf("a guest that asks for an event where there is none: %d %s", status, reason)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o = open(t, guest([]byte("spins")), func(c *Config) { c.Observe = true })
	if err := o.Observe(ctx, aCall, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled event: %v", err)
	}
}

// A guest that is to observe must have the export, with its signature.
func TestObservedExport(t *testing.T) {
	config := testConfig(t)
	config.Observe = true
	if _, err := Open(t.Context(), pass(), config); err == nil || !strings.Contains(err.Error(), `exports no function "handle_observed"`) {
		t.Errorf("without the export: %v", err)
	}
	a := newAsm().handler(i64(1))
	a.export(HandleObserved, 0, a.fn("", "", 0))
	if _, err := Open(t.Context(), a.bytes(), config); err == nil || !strings.Contains(err.Error(), "another signature than (i32) -> ()") {
		t.Errorf("with another signature: %v", err)
	}
	o := open(t, pass(), nil)
	if err := o.Observe(t.Context(), aCall, nil); so.AsRefusal(err).Status != 501 {
		t.Errorf("an object that does not observe: %v", err)
	}
}

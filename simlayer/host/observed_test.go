//go:build unix

package host

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"moult/simlayer/so"
	"moult/testdata/kit"
)

// writesGuest builds the sample guest that observes.
func writesGuest(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "writes.wasm")
	kit.Guest(t, out, "writes")
	return out
}

const secretPath = "/.moult/observed/secret"

func tell(t *testing.T, c *http.Client, path string, e so.Observed) string {
	t.Helper()
	body, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := do(c, "POST", path, string(body))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func write(n uint64, status int) so.Observed {
	return so.Observed{
		Event: so.ObservedCall, Number: n, Service: "api", Method: "PUT", URI: "/v1/k", Status: status,
		Request: so.ObservedMessage{Body: []byte("v")},
	}
}

// A wasm object counts the writes that it is told of, over a restart, once each, and
// denies when it has missed one. Nobody but the agent can tell it anything.
func TestObservingWasm(t *testing.T) {
	if raceEnabled {
		t.Skip("with the race detector, compiling the guest takes longer than all the rest")
	}
	n := startNode(t, 1)
	h, _ := startHost(t, Config{Cache: t.TempDir()})
	o := Object{Version: 2, To: 1, Kind: KindWasm, Path: writesGuest(t), State: t.TempDir(), Observe: secretPath}
	set(t, h, 1, n.addr, o)
	c := client(t, h.Addrs(2)["api"], false)
	writes := func(want string) {
		t.Helper()
		if got, _, err := do(c, "GET", "/v2/writes", ""); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s %v, want %s", got, err, want)
		}
	}
	for _, e := range []so.Observed{{Event: so.ObservedBegin, Number: 1}, write(2, 200), write(3, 404), write(4, 201), write(4, 201)} {
		if got := tell(t, c, secretPath, e); got != "204 " {
			t.Errorf("told of %+v: %s", e, got)
		}
	}
	writes(`{"writes":2}`)
	// What a caller says at a path like it is a call like any other.
	for _, path := range []string{"/.moult/observed", "/.moult/observed/other", secretPath + "/x"} {
		if got := tell(t, c, path, write(9, 200)); strings.HasPrefix(got, "204") {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got, _, err := do(c, "POST", secretPath, "{"); err != nil || !strings.HasPrefix(got, "400 ") {
		t.Errorf("half an event: %s %v", got, err)
	}
	writes(`{"writes":2}`)
	kill(t, h, 2)
	kit.Until(t, "its end", func() bool { return statsOf(h, 2).Restarts == 1 })
	tell(t, c, secretPath, write(4, 201))
	tell(t, c, secretPath, write(5, 200))
	writes(`{"writes":3}`)
	if s := statsOf(h, 2); s.Errors != 0 && s.Denied != 0 {
		t.Errorf("events count as calls: %+v", s)
	}
	tell(t, c, secretPath, so.Observed{Event: so.ObservedMissed, Number: 6, Missed: 1, Why: "it was too slow"})
	writes("409 ")
	writes("it was too slow")
	tell(t, c, secretPath, so.Observed{Event: so.ObservedBegin, Number: 7})
	writes("409 ")
}

// A module that cannot observe, and is to, refuses its callers and says why.
func TestObservingNot(t *testing.T) {
	n := startNode(t, 1)
	h, _ := startHost(t, Config{})
	plain := writeFile(t, "slow.wasm", "slow")
	set(t, h, 1, n.addr, Object{Version: 2, To: 1, Kind: KindWasm, Path: plain, State: t.TempDir(), Observe: secretPath})
	c := client(t, h.Addrs(2)["api"], false)
	if got := tell(t, c, secretPath, write(1, 200)); !strings.HasPrefix(got, "503 ") {
		t.Errorf("%s", got)
	}
	for _, bad := range []Object{
		{Version: 2, To: 1, Kind: KindRefuse, Reason: "x", Observe: secretPath},
		{Version: 2, To: 1, Kind: KindWasm, Path: plain, State: t.TempDir(), Observe: "secret"},
	} {
		if _, err := h.Set(t.Context(), Objects{Native: 1, List: []Object{bad}}); err == nil || !strings.Contains(err.Error(), "observe") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// An exec object finds in its environment where it is told of calls.
func TestObservingExec(t *testing.T) {
	n := startNode(t, 1)
	h, _ := startHost(t, Config{})
	o := execObject(t, 2, 1, "observes")
	o.Observe = secretPath
	set(t, h, 1, n.addr, o)
	c := client(t, h.Addrs(2)["api"], false)
	for _, e := range []so.Observed{{Event: so.ObservedBegin, Number: 1}, write(2, 200)} {
		if got := tell(t, c, secretPath, e); got != "200 " {
			t.Errorf("told of %+v: %s", e, got)
		}
	}
	if got, _, err := do(c, "GET", "/", ""); err != nil || got != "200 begin    0\ncall PUT /v1/k v 200" {
		t.Errorf("%q %v", got, err)
	}
}

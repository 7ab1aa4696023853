//go:build unix

package host

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/simlayer/stream"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// wasmGuest builds the sample guest in Go.
func wasmGuest(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "guest.wasm")
	kit.Guest(t, out, "kvnames")
	return out
}

// A wasm object with state: it outlives the process, a guest that spins fails its
// own call, and what it has kept is there when Set has taken it away.
func TestWasm(t *testing.T) {
	if raceEnabled {
		t.Skip("with the race detector, compiling the guest takes longer than all the rest")
	}
	h, _ := startHost(t, Config{Cache: t.TempDir()})
	ln, err := stream.Listen(t.Context(), anyPort)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"title":"%s %s"}`, r.Method, r.URL.Path)
	})}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	o := Object{Version: 1, To: 2, Kind: KindWasm, Path: wasmGuest(t), State: t.TempDir()}
	set(t, h, 2, ln.Addr().String(), o)
	c := client(t, h.Addrs(1)["api"], false)
	for range 2 {
		if got, _, err := do(c, "PUT", "/v1/k", `{"name":"x"}`); err != nil || got != `200 {"name":"PUT /v2/k"}` {
			t.Fatal(got, err)
		}
	}
	kill(t, h, 1)
	kit.Until(t, "its end", func() bool { return statsOf(h, 1).Restarts == 1 })
	if got, _, err := do(c, "GET", "/v1/hits/k", ""); err != nil || !strings.Contains(got, `"hits":2`) {
		t.Errorf("after a restart: %s %v", got, err)
	}
	if got, header, err := do(c, "GET", "/v1/spin", ""); err != nil || !strings.HasPrefix(got, "504 ") || header.Get("Moult-Refusal") != "error" {
		t.Errorf("a guest that spins: %s %v", got, err)
	}
	if s := statsOf(h, 1); s.Restarts != 1 || s.Kind != KindWasm {
		t.Errorf("%+v, want one restart, by the kill", s)
	}
	set(t, h, 2, ln.Addr().String(), Object{Version: 3, To: 2, Kind: KindRefuse, Reason: "no"})
	if kept, err := os.ReadFile(filepath.Join(o.State, "hits%2Fk")); err != nil || len(kept) == 0 {
		t.Errorf("state: %q %v", kept, err)
	}
	if h.Addrs(bundle.Version(1)) != nil {
		t.Error("it has addresses still")
	}
}

// A module that was compiled ahead is not compiled again when its object begins.
func TestCompile(t *testing.T) {
	cache, module := t.TempDir(), writeFile(t, "module.wasm", "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a\x04\x01\x02\x00\x0b")
	cfg := Config{Dir: t.TempDir(), Cache: cache}
	if err := Compile(t.Context(), cfg, module); err != nil {
		t.Fatal(err)
	}
	sealed, err := filepath.Glob(filepath.Join(cache, "*", "sums.json"))
	if err != nil || len(sealed) != 1 {
		t.Fatalf("compiled: %q, %v", sealed, err)
	}
	err = Compile(t.Context(), cfg, writeFile(t, "bad.wasm", "no module"))
	if err == nil || !strings.Contains(err.Error(), "moult: object-host: ") {
		t.Errorf("of what is no module: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Compile(ctx, cfg, module); !errors.Is(err, context.Canceled) {
		t.Errorf("when it is not wanted any more: %v", err)
	}
}

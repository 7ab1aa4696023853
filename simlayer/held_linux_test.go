package simlayer

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// clientAt is a client that calls from another address of this machine.
func clientAt(t *testing.T, ip string) *http.Client {
	c := newClient(t)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	c.Transport.(*http.Transport).DialContext = d.DialContext
	return c
}

// Somebody who fills all places to wait in while the node is down keeps no caller of another
// address out, whichever way its calls go.
func TestPlacesToWaitAreShared(t *testing.T) {
	for _, c := range []struct{ what, protocol, path string }{
		{"relayed", bundle.ProtocolHTTP, "/v2/keys/k"},
		{"simulated", bundle.ProtocolHTTP, "/v1/keys/k"},
		{"raw", bundle.ProtocolTCP, "/v2/keys/k"},
	} {
		l := startLayer(t, c.protocol, func(cfg *Config) { cfg.Limits = Limits{Held: 6, Conns: 200, Replay: 1 << 10} })
		r := Routing{Native: 2, External: 2, Down: true}
		if c.what == "simulated" {
			r.Objects, r.External = InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)}), 1
		}
		apply(t, l, r)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var ended atomic.Int64 // of the greedy ones
		for range 12 {         // some are refused, and do not come again
			wg.Go(func() {
				defer ended.Add(1)
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, publicURL(l)+c.path, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if resp, err := clientAt(t, "127.0.0.2").Do(req); err == nil {
					resp.Body.Close()
				}
			})
		}
		eventually(t, c.what+": all places are taken", func() bool { return l.Stats().Held == 6 })
		results := make(chan reply, 3)
		for range 3 {
			wg.Go(func() {
				answer, err := do(clientAt(t, "127.0.0.3"), "GET", publicURL(l)+c.path, "")
				if err != nil {
					answer.body = err.Error()
				}
				results <- answer
			})
		}
		// Each takes one's place.
		eventually(t, c.what+": the others wait, or were refused", func() bool { return ended.Load() == 9 || len(results) > 0 })
		r.Down, r.Backends = false, backends(addrOf(software(t, 2, &state{values: map[string]string{"k": "v"}})))
		apply(t, l, r)
		for range 3 {
			if got := <-results; got.status != 200 || !strings.Contains(got.body, `"v"`) {
				t.Errorf("%s: %d %s", c.what, got.status, got.body)
			}
		}
		cancel()
		wg.Wait()
	}
}

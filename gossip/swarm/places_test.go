package swarm

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// callerOf reads "a2": the second peer at the address that is called a.
func callerOf(t *testing.T, text string) Caller {
	t.Helper()
	from, err := netip.ParsePrefix(fmt.Sprintf("10.0.0.%d/32", text[0]))
	if err != nil {
		t.Fatal(err)
	}
	return Caller{From: from, Peer: id(int(text[1]))}
}

// Who has fewest comes first, and who has waited ends the youngest upload of who has most,
// but nobody's who has about as few.
func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		taken, waiting string
		shed           int    // the upload that ends when the first of those that wait insists; -1: none
		next           string // who gets the place of the first upload, when that ends by itself
	}{
		{"a1 a1 a1 a1", "b1", 3, "b1"},
		{"a1 a1 a1 b1", "b1", 2, "b1"},
		{"a1 a1 b1 b1", "b1", -1, "b1"},
		{"a1 a1 b1 b1", "c1", 3, "c1"},
		{"a1 b1 c1 d1", "e1", -1, "e1"},
		{"a1 b1 c1 d1", "a1", -1, "a1"},
		{"a1 a2 a3 a4", "b1", 3, "b1"},     // identities cost nothing: the address counts
		{"a1 a2 a3 a3", "a4", 3, "a4"},     // and at one address the peer
		{"a1 a1 a2 a3", "a4", 1, "a4"},     // of which the youngest
		{"a1 a2 a3 b1", "b1", 2, "b1"},     // a's address has most
		{"a1 a1 a2 b1", "c1", 1, "c1"},     // and of it the first peer
		{"a1 a1 a1 b1", "a1 a2", -1, "a2"}, // not one's own
		{"a1 a1 a1 a1", "a1 b1 a2", -1, "b1"},
		{"a1 a1 b1 b1", "b1 a1 c2 c1", -1, "c2"}, // the first of equal ones
	} {
		s := places{total: 4}
		var shed []int
		enter := func(text string) (ps []*place) {
			for i, who := range strings.Fields(text) {
				ps = append(ps, s.enter(callerOf(t, who), func() { shed = append(shed, i) }))
			}
			return ps
		}
		fill := func() (taken, waiting []*place) { return enter(c.taken), enter(c.waiting) }
		taken, waiting := fill()
		had := func(p *place) bool {
			select {
			case <-p.given:
				return true
			default:
				return false
			}
		}
		if had(waiting[0]) {
			t.Errorf("%+v: more places than there are", c)
		}
		got := s.insist(waiting[0])
		want := []int{c.shed}
		if c.shed < 0 {
			want = nil
		}
		if fmt.Sprint(shed) != fmt.Sprint(want) || got != (c.shed >= 0) || had(waiting[0]) != got || len(s.taken) != 4 {
			t.Errorf("%+v: %v ended, and a place was had: %v", c, shed, got)
		}
		for _, p := range append(taken, waiting...) {
			s.leave(p)
		}
		if len(s.taken)+len(s.waiting) != 0 {
			t.Errorf("%+v: all have left, and %d and %d stay", c, len(s.taken), len(s.waiting))
		}
		taken, waiting = fill()
		s.leave(taken[0])
		s.leave(taken[0])
		var next []string
		for i, who := range strings.Fields(c.waiting) {
			if had(waiting[i]) {
				next = append(next, who)
			}
		}
		if fmt.Sprint(next) != fmt.Sprint([]string{c.next}) {
			t.Errorf("%+v: %v come next", c, next)
		}
	}
}

// A peer that takes all places and reads nothing keeps none from another, not by many
// identities either.
func TestUploadPlacesAreShared(t *testing.T) {
	a, seed := software(2, 8<<20) // more than sockets take up
	chunk := Path + "chunk/" + a.Chunks[0].Digest.Hex()
	server := httptest.NewServer(NewServer(seed, ServerOptions{MaxConcurrent: 4, Caller: func(r *http.Request) Caller {
		return callerOf(t, r.Header.Get("Test-Caller"))
	}}))
	defer server.Close()
	ask := func(who string) *http.Response {
		req, err := http.NewRequestWithContext(within(t), http.MethodGet, server.URL+chunk, nil)
		must(t, err)
		req.Header.Set("Test-Caller", who)
		resp, err := server.Client().Do(req)
		must(t, err)
		return resp
	}
	for _, greedy := range []string{"a1", "a2", "a3", "a4"} {
		resp := ask(greedy) // its head is here, so it has a place
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s was answered %s", greedy, resp.Status)
		}
	}
	for range 3 { // a place that was had once is had again
		resp := ask("b1")
		data, err := io.ReadAll(resp.Body)
		must(t, err)
		must(t, resp.Body.Close())
		if resp.StatusCode != http.StatusOK || !bytes.Equal(data, seed.has[a.Chunks[0].Digest]) {
			t.Errorf("answered %s with %d bytes", resp.Status, len(data))
		}
	}
}

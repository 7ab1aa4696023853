package gossip

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"moult/gossip/view"
	"moult/store/bundle"
)

// rawPeer holds the gossip key and speaks the peer protocol by a handler of
// the test's own.
func rawPeer(t *testing.T, h http.Handler) (Peer, *transport) {
	t.Helper()
	cfg := testConfig(t, "raw")
	_, proofKeys, err := keysOf(cfg)
	if err != nil {
		t.Fatal(err)
	}
	door, err := newGate(cfg.Key, cfg.Cluster, proofKeys)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := newTransport(t.Context(), cfg, door)
	if err != nil {
		t.Fatal(err)
	}
	tr.start()
	server := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(newPeerListener(tr))
	}()
	t.Cleanup(func() {
		_ = server.Close()
		_ = tr.Shutdown()
		<-done
	})
	return Peer{Addr: tr.advertise.String()}, tr
}

// What a peer answers is bounded and checked; a lying one changes nothing and
// does not count as an exchange.
func TestLyingPeers(t *testing.T) {
	answer := func(v any) http.HandlerFunc { return func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, v) } }
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}
	stranger := testKey(t)
	unasked := []view.Signed{sign(t, stranger, "x", 1), sign(t, stranger, "x", 2)}
	cases := map[string]struct {
		routes map[string]http.HandlerFunc
		want   string
	}{
		"no JSON": {map[string]http.HandlerFunc{pathDigest: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }}, "the answer"},
		"busy": {map[string]http.HandlerFunc{pathDigest: func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "come back", http.StatusServiceUnavailable)
		}}, "refused (503): come back"},
		"redirects": {map[string]http.HandlerFunc{pathDigest: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}}, "refused (307)"},
		"unknown bucket":   {map[string]http.HandlerFunc{pathDigest: answer(digestReply{Buckets: []int{512}})}, "bucket 512 of 512"},
		"endless digest":   {map[string]http.HandlerFunc{pathDigest: endless}, "longer than"},
		"endless trust":    {map[string]http.HandlerFunc{pathDigest: answer(digestReply{Heads: heads{1, bundle.Digest{1}, bundle.Digest{}}}), pathTrust + "/": endless}, "longer than"},
		"another set":      {map[string]http.HandlerFunc{pathDigest: answer(digestReply{Heads: heads{1, bundle.Digest{1}, bundle.Digest{}}}), pathTrust + "/": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "other bytes") }}, "another trust set"},
		"records unasked":  {map[string]http.HandlerFunc{pathDigest: answer(digestReply{Buckets: []int{0}, Stamps: []view.Stamp{stamp(1, 1, 1)}}), pathRecords: answer(recordsReply{unasked})}, "2 records for 1"},
		"endless records":  {map[string]http.HandlerFunc{pathDigest: answer(digestReply{Buckets: []int{0}, Stamps: []view.Stamp{stamp(1, 1, 1)}}), pathRecords: endless}, "longer than"},
		"garbled records":  {map[string]http.HandlerFunc{pathDigest: answer(digestReply{Buckets: []int{0}, Stamps: []view.Stamp{stamp(1, 1, 1)}}), pathRecords: answer(map[string]any{"records": []any{map[string]any{"record": "x"}}})}, "the answer"},
		"always different": {map[string]http.HandlerFunc{pathDigest: growing(), pathRecords: answer(recordsReply{})}, "still differ after"},
	}
	a := startAgent(t, testConfig(t, "n1"))
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			mux := http.NewServeMux()
			for path, h := range c.routes {
				mux.Handle(path, h)
			}
			p, _ := rawPeer(t, mux)
			err := a.SyncNow(t.Context(), p)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), p.Addr) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	select {
	case <-a.Synced():
		t.Error("a lying peer counts as an exchange")
	default:
	}
	if r := a.Report(); r.Exchanges != 0 || r.LastError == "" || a.offers != 0 || a.view.Len() != 0 {
		t.Errorf("report %+v, %d sets offered, %d records", r, a.offers, a.view.Len())
	}
}

// growing answers each digest with a newer record than before.
func growing() http.HandlerFunc {
	seq := uint64(0)
	return func(w http.ResponseWriter, _ *http.Request) {
		seq++
		writeJSON(w, digestReply{Buckets: []int{0}, Stamps: []view.Stamp{stamp(0, seq, 1)}})
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	agents := startRingOf(t, 2, nil)
	a, b := agents[0], agents[1]
	many := recordsRequest{Want: make([]bundle.NodeID, maxRecordsPerPage+1)}
	for name, c := range map[string]struct {
		method, path string
		body         []byte
		status       int
	}{
		"no JSON":          {"POST", pathDigest, []byte("hello"), 400},
		"too few buckets":  {"POST", pathDigest, mustJSON(digestRequest{Buckets: make([]byte, 8)}), 400},
		"a long digest":    {"POST", pathDigest, bytes.Repeat([]byte(" "), maxDigestBody+1), 400},
		"too many records": {"POST", pathRecords, mustJSON(many), 400},
		"no digest":        {"GET", pathTrust + "/abc", nil, 400},
		"an unknown set":   {"GET", pathTrust + "/" + strings.Repeat("0", 63) + "1", nil, 404},
		"a long set":       {"POST", pathTrust, make([]byte, maxTrustSet+1), 413},
		"a wrong name":     {"POST", pathHello, mustJSON(helloRequest{Name: "a b"}), 400},
		"no such path":     {"GET", "/moult/v1/nothing", nil, 404},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := a.call(t.Context(), Peer{ID: b.Self()}, c.method, c.path, c.body, 1<<20)
			var r *refusal
			if !errors.As(err, &r) || r.status != c.status {
				t.Errorf("got %v, want status %d", err, c.status)
			}
		})
	}
	if _, d, _ := b.TrustDigest(); !d.IsZero() {
		t.Error("a refused set was offered")
	}
}

// A replica that takes nothing in does not keep two peers busy.
func TestRefusingReplicaEndsTheExchange(t *testing.T) {
	agents := startRingOf(t, 2, func(_ int, c *Config) { c.SyncInterval = 0 })
	a, b := agents[0], agents[1]
	<-b.Synced()
	a.record(t, 1, "")
	b.record(t, 1, "")
	b.testReplica.mu.Lock()
	b.refuse = true
	b.testReplica.mu.Unlock()
	if err := a.SyncNow(t.Context(), Peer{ID: b.Self()}); err != nil {
		t.Fatal(err)
	}
	if a.seq(b.Self()) != 1 || b.seq(a.Self()) != 0 {
		t.Error("the exchange did not go as far as it could")
	}
}

// Of a peer's streams only so many are let in, whatever their number; other
// peers are not affected.
func TestStreamsPerPeer(t *testing.T) {
	a := startAgent(t, testConfig(t, "n1"))
	_, greedy := rawPeer(t, nil)
	alive := func(s *stream) bool {
		_, err := fmt.Fprintf(s, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
		if err == nil {
			_, err = io.ReadFull(s, make([]byte, 12))
		}
		return err == nil
	}
	served := 0
	for range maxStreamsPerPeer + 5 {
		s, err := greedy.open(t.Context(), a.Addr(), alpnPeer, bundle.NodeID{})
		if err != nil {
			continue
		}
		defer s.Close()
		if alive(s) {
			served++
		}
	}
	if served != maxStreamsPerPeer {
		t.Errorf("%d streams were served: want %d", served, maxStreamsPerPeer)
	}
	_, modest := rawPeer(t, nil)
	s, err := modest.open(t.Context(), a.Addr(), alpnPeer, a.Self())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !alive(s) {
		t.Error("another peer was not served")
	}
}

// memberlist's streams go only to who holds the name; an address that answers
// with another key sets the name free.
func TestImpostor(t *testing.T) {
	agents := startRingOf(t, 2, nil)
	a, b := agents[0], agents[1]
	c, err := a.transport.DialAddressTimeout(memberlist.Address{Name: "n2", Addr: b.Addr()}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	p, _ := rawPeer(t, nil)
	_, err = a.transport.DialAddressTimeout(memberlist.Address{Name: "n2", Addr: p.Addr}, time.Minute)
	var other *IdentityError
	if !errors.As(err, &other) || other.Want != b.Self() {
		t.Fatalf("dialled an impostor: %v", err)
	}
	if _, ok := a.guard.expect("n2"); ok {
		t.Error("the name was not set free")
	}
	// From then on memberlist reaches who is there now: it tries that by name.
	if c, err = a.transport.DialAddressTimeout(memberlist.Address{Name: "n2", Addr: p.Addr}, time.Minute); err != nil {
		t.Fatalf("dialled who took the address over: %v", err)
	}
	_ = c.Close()
}

// A dial ends with its context, also in the middle of a handshake.
func TestOpenEndsWithContext(t *testing.T) {
	_, tr := rawPeer(t, nil)
	ln, pc, err := sockets{}.Listen(t.Context(), "127.0.0.1:0") // accepts in the kernel, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	defer pc.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	go func() {
		c, err := ln.Accept()
		if err == nil {
			_, _ = c.Read(make([]byte, 1)) // the handshake has begun
			cancel(why)
			defer c.Close()
			<-t.Context().Done()
		}
	}()
	if _, err := tr.open(ctx, ln.Addr().String(), alpnPeer, bundle.NodeID{}); !errors.Is(err, why) {
		t.Errorf("open: %v", err)
	}
}

func TestHeadsAreJSON(t *testing.T) {
	b, err := json.Marshal(digestRequest{Heads: heads{1, bundle.Digest{}, bundle.Digest{}}})
	if want := `{"heads":{"timestamp":1,"digest":"","evidence":""},"buckets":null}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}

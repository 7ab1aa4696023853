package gossip

import (
	"crypto/ed25519"
	"encoding/binary"
	"log/slog"
	"sync"
	"testing"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// testReplica is a Replica whose trust sets are a timestamp and any bytes.
type testReplica struct {
	changed chan struct{} // one token: something may have changed

	mu       sync.Mutex // protects what follows
	view     *view.View
	sets     map[bundle.Digest][]byte
	head     bundle.Digest
	time     int64
	evidence bundle.Digest
	offers   int
	refuse   bool // records are not accepted
	full     bool // trust sets are not stored
	blind    bool // a planted bug: all views look alike
}

func newTestReplica() *testReplica {
	return &testReplica{view: view.New(nil), sets: map[bundle.Digest][]byte{}, changed: make(chan struct{}, 1)}
}

func (r *testReplica) Buckets() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blind {
		return make([]uint64, view.NumBuckets)
	}
	return r.view.Buckets()
}

func (r *testReplica) Stamps(buckets []int) []view.Stamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []view.Stamp
	for _, b := range buckets {
		out = append(out, r.view.Stamps(b)...)
	}
	return out
}

func (r *testReplica) Records(ids []bundle.NodeID) []view.Signed {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []view.Signed
	for _, id := range ids {
		if s, ok := r.view.Signed(id); ok {
			out = append(out, s)
		}
	}
	return out
}

func (r *testReplica) Merge(_ bundle.NodeID, records []view.Signed) []view.Signed {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer poke(r.changed)
	if r.refuse {
		return nil
	}
	changed, _ := r.view.Merge(records...)
	var news []view.Signed
	for _, id := range changed {
		s, _ := r.view.Signed(id)
		news = append(news, s)
	}
	return news
}

func (r *testReplica) TrustDigest() (int64, bundle.Digest, bundle.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.time, r.head, r.evidence
}

func (r *testReplica) TrustSet(d bundle.Digest) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sets[d]
	return s, ok
}

func (r *testReplica) OfferTrust(_ bundle.NodeID, set []byte) (settled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer poke(r.changed)
	r.offers++
	if r.full {
		return false
	}
	t := int64(binary.BigEndian.Uint64(set))
	d := bundle.Sum(set)
	switch {
	case t > r.time:
		r.time, r.head, r.sets[d] = t, d, set
	case t == r.time && d != r.head && (r.evidence.IsZero() || d.Hex() < r.evidence.Hex()):
		r.evidence, r.sets[d] = d, set
	}
	return true
}

func (r *testReplica) setTrust(timestamp int64, rest []byte) Hint {
	set := append(binary.BigEndian.AppendUint64(nil, uint64(timestamp)), rest...)
	r.OfferTrust(bundle.NodeID{}, set)
	return Hint{timestamp, bundle.Sum(set)}
}

func (r *testReplica) seq(id bundle.NodeID) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, _ := r.view.Get(id)
	return rec.Seq
}

// testAgent is one agent of a test ring.
type testAgent struct {
	*Gossip
	*testReplica
	key       ed25519.PrivateKey
	conflicts chan Conflict
}

var testCluster = bundle.Sum([]byte("the first root"))

func testGossipKey(b byte) []byte {
	k := make([]byte, gossipKeySize)
	for i := range k {
		k[i] = b
	}
	return k
}

func testKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testConfig(t testing.TB, name string) Config {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Name, cfg.Key, cfg.Cluster, cfg.GossipKey, cfg.Bind = name, testKey(t), testCluster, testGossipKey(1), "127.0.0.1:0"
	cfg.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	return cfg
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Log(string(p[:len(p)-1]))
	return len(p), nil
}

func startAgent(t testing.TB, cfg Config) *testAgent {
	t.Helper()
	a := &testAgent{testReplica: newTestReplica(), key: cfg.Key, conflicts: make(chan Conflict, 16)}
	cfg.Replica = a.testReplica
	cfg.MembersChanged = func() { poke(a.changed) }
	cfg.Conflict = func(c Conflict) { a.conflicts <- c }
	g, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.Gossip = g
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// record signs the agent's own record with a sequence number, and takes it
// into its own view.
func (a *testAgent) record(t testing.TB, seq uint64, reason string) view.Signed {
	t.Helper()
	s, err := view.Sign(a.key, testRecord(a.key, a.cfg.Name, seq, reason))
	if err != nil {
		t.Fatal(err)
	}
	if news := a.Merge(a.Self(), []view.Signed{s}); len(news) != 1 {
		t.Fatalf("own record with sequence number %d was not news", seq)
	}
	return s
}

func testRecord(key ed25519.PrivateKey, name string, seq uint64, reason string) view.Record {
	pub := key.Public().(ed25519.PublicKey)
	return view.Record{Node: bundle.NodeIDOf(pub), Key: pub, Name: name, Class: "kv", Phase: "current", Seq: seq, Addr: "127.0.0.1:1", Reason: reason}
}

func sign(t testing.TB, key ed25519.PrivateKey, name string, seq uint64) view.Signed {
	t.Helper()
	s, err := view.Sign(key, testRecord(key, name, seq, ""))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// until waits for a condition that changes of the replica or the ring bring.
func (a *testAgent) until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-a.changed:
		case <-deadline:
			t.Fatalf("%s: never saw %s", a.cfg.Name, what)
		}
	}
}

// joinAll joins agents to the first one and waits until each sees all, and its guard
// knows who holds their names: Serf tells it of a member after it has listed it.
func joinAll(t testing.TB, agents []*testAgent) {
	t.Helper()
	for _, a := range agents[1:] {
		if n, err := a.Join(t.Context(), []string{agents[0].Addr()}); n != 1 || err != nil {
			t.Fatalf("%s joined %d: %v", a.cfg.Name, n, err)
		}
	}
	for _, a := range agents {
		a.until(t, "all members", func() bool { return len(a.live()) == len(agents)-1 && a.guards(agents) })
	}
}

// guards reports whether the guard knows the names of these agents.
func (a *testAgent) guards(agents []*testAgent) bool {
	for _, of := range agents {
		if id, ok := a.guard.expect(of.cfg.Name); !ok || id != of.Self() {
			return false
		}
	}
	return true
}

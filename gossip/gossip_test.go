package gossip

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/gossip/view"
	"moult/store/bundle"
)

func TestMain(m *testing.M) {
	// A probe that memberlist has begun ends up to its interval after Shutdown.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

func startRingOf(t testing.TB, n int, change func(i int, c *Config)) []*testAgent {
	t.Helper()
	var agents []*testAgent
	for i := range n {
		cfg := testConfig(t, fmt.Sprintf("n%d", i+1))
		if change != nil {
			change(i, &cfg)
		}
		agents = append(agents, startAgent(t, cfg))
	}
	joinAll(t, agents)
	return agents
}

func everywhere(t *testing.T, agents []*testAgent, of *testAgent, seq uint64) {
	t.Helper()
	for _, a := range agents {
		a.until(t, fmt.Sprintf("record %d of %s", seq, of.cfg.Name), func() bool { return a.seq(of.Self()) == seq })
	}
}

// keepTelling tells a record, and again each second until it is stopped: rumours may be
// lost, and on a busy machine many at once.
func keepTelling(a *testAgent, s view.Signed) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	a.Rumour(s)
	go func() {
		defer close(ended)
		again := time.NewTicker(time.Second)
		defer again.Stop()
		for {
			select {
			case <-done:
				return
			case <-again.C:
				a.Rumour(s)
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

func TestRumoursConverge(t *testing.T) {
	agents := startRingOf(t, 5, func(_ int, c *Config) {
		c.SyncInterval = 0
		c.RumourInterval = 20 * time.Millisecond
	})
	for _, a := range agents { // the exchanges that follow joins are over
		if a != agents[0] {
			<-a.Synced()
		}
	}
	exchanges := agents[1].Report().Exchanges
	for seq := uint64(1); seq <= 3; seq++ {
		stop := keepTelling(agents[2], agents[2].record(t, seq, "short"))
		everywhere(t, agents, agents[2], seq)
		stop()
	}
	if got := agents[1].Report().Exchanges; got != exchanges {
		t.Errorf("%d exchanges happened: the records may not have come by rumour", got-exchanges)
	}
	for _, a := range agents {
		if p := a.Traffic().Packets; p.In == 0 || p.Out == 0 {
			t.Errorf("bytes of packets of %s: %+v", a.cfg.Name, p)
		}
	}
}

// A record that does not fit into a packet is hinted at, and fetched.
func TestLongRecordsAreHintedAt(t *testing.T) {
	agents := startRingOf(t, 3, func(_ int, c *Config) {
		c.SyncInterval = 0
		c.RumourInterval = 20 * time.Millisecond
	})
	for _, a := range agents[1:] {
		<-a.Synced()
	}
	defer keepTelling(agents[0], agents[0].record(t, 1, strings.Repeat("why ", 250)))()
	everywhere(t, agents, agents[0], 1)
}

func TestAntiEntropyAloneConverges(t *testing.T) {
	agents := startRingOf(t, 5, func(_ int, c *Config) {
		c.SyncInterval = 30 * time.Millisecond
		c.RumourInterval = 0
	})
	for i, a := range agents {
		a.record(t, uint64(i+1), "")
		a.Rumour(a.record(t, uint64(i+10), "")) // tells nobody
	}
	large := make([]byte, 2<<20)
	_, _ = rand.Read(large)
	hint := agents[3].setTrust(7, large)
	for i := range agents {
		everywhere(t, agents, agents[i], uint64(i+10))
	}
	for _, a := range agents {
		a.until(t, "the large trust set", func() bool { _, d, _ := a.TrustDigest(); return d == hint.Digest })
	}
}

// An announcement leads to an exchange at once: nothing else could here.
func TestAnnounce(t *testing.T) {
	agents := startRingOf(t, 4, func(_ int, c *Config) {
		c.SyncInterval = 0
		c.RumourInterval = 0
	})
	hint := agents[0].setTrust(3, []byte("new"))
	if err := agents[0].Announce(hint); err != nil {
		t.Fatal(err)
	}
	for _, a := range agents {
		a.until(t, "the announced set", func() bool { _, d, _ := a.TrustDigest(); return d == hint.Digest })
	}
}

// Two sets with one number reach everyone, as evidence.
func TestConflictingTrustSpreads(t *testing.T) {
	agents := startRingOf(t, 4, func(_ int, c *Config) { c.SyncInterval = 30 * time.Millisecond })
	agents[0].setTrust(3, []byte("one"))
	agents[3].setTrust(3, []byte("another"))
	for _, a := range agents {
		a.until(t, "both sets", func() bool { _, d, e := a.TrustDigest(); return !d.IsZero() && !e.IsZero() })
	}
}

// A set that a peer's disk had no room for comes again with the next exchange, whoever
// begins that; and records go over meanwhile.
func TestTrustThatWasNotStoredComesAgain(t *testing.T) {
	for _, pulls := range []bool{true, false} {
		agents := startRingOf(t, 2, func(_ int, c *Config) { c.SyncInterval, c.RumourInterval = 0, 0 })
		has, lacks := agents[0], agents[1]
		<-lacks.Synced()
		hint := has.setTrust(3, []byte("new"))
		has.record(t, 1, "")
		exchange := func() {
			t.Helper()
			from, to := has, lacks
			if pulls {
				from, to = lacks, has
			}
			if err := from.SyncNow(t.Context(), Peer{ID: to.Self()}); err != nil {
				t.Fatal(err)
			}
		}
		full := func(full bool) {
			lacks.testReplica.mu.Lock()
			defer lacks.testReplica.mu.Unlock()
			lacks.full = full
		}
		full(true)
		exchange()
		if _, d, _ := lacks.TrustDigest(); d == hint.Digest || lacks.seq(has.Self()) != 1 {
			t.Fatalf("pulls %v: on a full disk the set is there: %v, and the record number %d", pulls, d == hint.Digest, lacks.seq(has.Self()))
		}
		full(false)
		exchange()
		if _, d, _ := lacks.TrustDigest(); d != hint.Digest {
			t.Errorf("pulls %v: with room again, the set does not come", pulls)
		}
	}
}

func TestForeignAgentsAreRefused(t *testing.T) {
	home := startAgent(t, testConfig(t, "home"))
	for name, change := range map[string]func(*Config){
		"another cluster":    func(c *Config) { c.Cluster = bundle.Sum([]byte("another root")) },
		"another gossip key": func(c *Config) { c.GossipKey = testGossipKey(2) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, "stranger")
			change(&cfg)
			stranger := startAgent(t, cfg)
			n, err := stranger.Join(t.Context(), []string{home.Addr()})
			if n != 0 || !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), home.Addr()) {
				t.Errorf("joined %d: %v", n, err)
			}
			// Past our own protocol, memberlist's streams meet the same gate.
			if n, err := stranger.serf.Join([]string{home.Addr()}, true); n != 0 || err == nil || !strings.Contains(err.Error(), ErrForeign.Error()) {
				t.Errorf("memberlist joined %d: %v", n, err)
			}
			if got := home.Members(); len(got) != 1 {
				t.Errorf("members at home: %v", got)
			}
		})
	}
}

// The ring's secret is replaced in three steps, by agents that are started again one after
// the other: all take the new one as well, all use it, all give up the old one. At no
// moment are two agents one step apart in two rings.
func TestGossipKeyIsReplaced(t *testing.T) {
	before, after := testGossipKey(1), testGossipKey(2)
	steps := [][2][]byte{{before, nil}, {before, after}, {after, before}, {after, nil}}
	start := func(name string, step int) *testAgent {
		cfg := testConfig(t, name)
		cfg.GossipKey, cfg.OtherGossipKey = steps[step][0], steps[step][1]
		return startAgent(t, cfg)
	}
	for _, apart := range [][2]int{{0, 1}, {1, 0}, {1, 2}, {2, 1}, {2, 3}, {3, 2}, {0, 3}, {3, 0}} {
		t.Run(fmt.Sprintf("step %d dials step %d", apart[0], apart[1]), func(t *testing.T) {
			t.Parallel()
			home, guest := start("home", apart[1]), start("guest", apart[0])
			if apart[0]+apart[1] == 3 && apart[0]%3 == 0 {
				if n, err := guest.Join(t.Context(), []string{home.Addr()}); !errors.Is(err, ErrForeign) {
					t.Errorf("joined %d: %v", n, err)
				}
				return
			}
			joinAll(t, []*testAgent{home, guest}) // each sees the other
			guest.Rumour(home.record(t, 1, "hello"))
			everywhere(t, []*testAgent{home, guest}, home, 1)
		})
	}
}

func TestStrangeProtocolIsRefused(t *testing.T) {
	home := startAgent(t, testConfig(t, "home"))
	c, err := net.Dial("tcp", home.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, err := io.ReadAll(c)
	if bytes.Contains(answer, []byte("HTTP")) {
		t.Errorf("plain HTTP was answered: %q, %v", answer, err)
	}
}

func TestNameConflict(t *testing.T) {
	agents := startRingOf(t, 3, nil)
	cfg := testConfig(t, "n2")
	twin := startAgent(t, cfg)
	_, err := twin.Join(t.Context(), []string{agents[0].Addr()})
	if err == nil || !strings.Contains(err.Error(), `node name "n2" is in use by node `+agents[1].Self().Short()) {
		t.Fatalf("a name in use: %v", err)
	}
	c := <-agents[0].conflicts
	if c.Name != "n2" || c.Holder != agents[1].Self() || c.Claimant != twin.Self() {
		t.Errorf("reported %+v", c)
	}
	// A twin that does not ask first is not let in either.
	_, _ = twin.serf.Join([]string{agents[2].Addr()}, true)
	c = <-agents[2].conflicts
	if c.Name != "n2" || c.Claimant != twin.Self() {
		t.Errorf("reported %+v", c)
	}
	for _, a := range agents {
		for _, m := range a.Members() {
			if m.ID == twin.Self() {
				t.Errorf("%s obeyed the twin: %+v", a.cfg.Name, m)
			}
		}
	}
}

func TestCopiedIdentityIsReported(t *testing.T) {
	agents := startRingOf(t, 2, nil)
	cfg := testConfig(t, "n9")
	cfg.Key = agents[1].key
	copied := startAgent(t, cfg)
	_, err := copied.Join(t.Context(), []string{agents[0].Addr()})
	if err == nil || !strings.Contains(err.Error(), "a copied data folder?") {
		t.Fatalf("a copied identity: %v", err)
	}
}

// TestTwin: of two agents with one key and one name, at two addresses, the second is not let in while
// the first is there, and both know of each other; one that has moved is let in. What a peer says
// of somebody who has this key is looked into before it is believed.
func TestTwin(t *testing.T) {
	agents := startRingOf(t, 3, nil)
	cfg := testConfig(t, "n2")
	cfg.Key = agents[1].key
	twin := startAgent(t, cfg)
	_, err := twin.Join(t.Context(), []string{agents[0].Addr()})
	if err == nil || !strings.Contains(err.Error(), "a copied data folder?") || len(twin.live()) > 0 {
		t.Fatalf("a twin: %v, and it has joined: %v", err, twin.live())
	}
	proven := func(a *testAgent, at string) {
		t.Helper()
		c := <-a.conflicts
		if c.Holder != a.Self() || c.Claimant != a.Self() || c.ClaimantAddr != at || c.Hearsay {
			t.Errorf("%s reports %+v", a.Addr(), c)
		}
	}
	proven(agents[1], twin.Addr())
	proven(twin, agents[1].Addr())
	if c := <-agents[0].conflicts; c.Holder != twin.Self() || c.Claimant != twin.Self() {
		t.Errorf("the peer that was asked reports %+v", c)
	}
	// Hearsay: nobody has that key there.
	if _, _, err := agents[0].helloAlso(t.Context(), Peer{Addr: agents[2].Addr()}, agents[0].Addr()); err != nil {
		t.Fatal(err)
	}
	agents[2].judge(Conflict{Holder: agents[2].Self(), Claimant: agents[2].Self(), ClaimantAddr: agents[1].Addr(), Hearsay: true})
	select {
	case c := <-agents[2].conflicts:
		t.Errorf("hearsay is believed: %+v", c)
	default:
	}
	// It moves: it ends where it was.
	if err := agents[1].Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := twin.Join(t.Context(), []string{agents[0].Addr()}); err != nil {
		t.Errorf("a node that has moved is not let in: %v", err)
	}
}

// An agent that comes back under another address of the same machine is no twin of itself,
// though the old one is answered, too.
func TestAdvertisedAnew(t *testing.T) {
	agents := startRingOf(t, 1, nil)
	cfg := testConfig(t, "n2")
	cfg.Bind, cfg.Advertise = "0.0.0.0:0", "127.0.0.1:0"
	before := startAgent(t, cfg)
	if _, err := before.Join(t.Context(), []string{agents[0].Addr()}); err != nil {
		t.Fatal(err)
	}
	agents[0].until(t, "the agent", func() bool { return len(agents[0].live()) == 1 })
	_, port, err := net.SplitHostPort(before.Addr())
	if err == nil {
		err = before.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg.Bind, cfg.Advertise = net.JoinHostPort("0.0.0.0", port), net.JoinHostPort("127.0.0.2", port)
	again := startAgent(t, cfg)
	if _, err := again.Join(t.Context(), []string{agents[0].Addr()}); err != nil {
		t.Errorf("it is not let in: %v", err)
	}
}

// An agent that comes back with a new identity at its old address takes its
// name over: the address proves it.
func TestReplacedIdentity(t *testing.T) {
	agents := startRingOf(t, 2, nil)
	addr := agents[1].Addr()
	if err := agents[1].Close(); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, "n2")
	cfg.Bind = addr
	next := startAgent(t, cfg)
	if _, err := next.Join(t.Context(), []string{agents[0].Addr()}); err != nil {
		t.Fatal(err)
	}
	agents[0].until(t, "the new identity", func() bool {
		for _, m := range agents[0].live() {
			if m.ID == next.Self() {
				return true
			}
		}
		return false
	})
}

func TestDo(t *testing.T) {
	agents := startRingOf(t, 2, func(i int, c *Config) {
		c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id, ok := PeerID(r.Context())
			body, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%d %v %s %s %s %q %v", i, ok, id, SourceOf(r), r.URL, body, err)
		})
	})
	a, b := agents[0], agents[1]
	ask := func(p Peer) (string, error) {
		req, err := http.NewRequest(http.MethodPost, "/swarm/x?y=1", strings.NewReader("ask"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := a.Do(t.Context(), p, req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return string(text), err
	}
	want := fmt.Sprintf(`1 true %s 127.0.0.1/32 /swarm/x?y=1 "ask" <nil>`, a.Self())
	before := a.Traffic()
	for _, p := range []Peer{{ID: b.Self()}, {Addr: b.Addr()}, {ID: b.Self(), Addr: b.Addr()}} {
		if got, err := ask(p); got != want || err != nil {
			t.Errorf("%v answered %q, %v\nwant %q", p, got, err, want)
		}
	}
	if now := a.Traffic(); now.Peer.In-before.Peer.In < int64(3*len(want)) || now.Peer.Out-before.Peer.Out < int64(3*len("ask")) {
		t.Errorf("bytes of requests: %+v, before them %+v", now.Peer, before.Peer)
	}
	if ring := b.Traffic().Ring; ring.In == 0 || ring.Out == 0 {
		t.Errorf("bytes of the ring's streams at a peer that was joined: %+v", ring)
	}
	stranger := bundle.NodeIDOf(testKey(t).Public().(ed25519.PublicKey))
	if _, err := ask(Peer{ID: stranger}); err == nil || !strings.Contains(err.Error(), "not a member") {
		t.Errorf("a stranger: %v", err)
	}
	var other *IdentityError
	if _, err := ask(Peer{ID: stranger, Addr: b.Addr()}); !errors.As(err, &other) || other.Got != b.Self() {
		t.Errorf("another identity: %v", err)
	}
}

func TestQuery(t *testing.T) {
	agents := startRingOf(t, 3, func(i int, c *Config) {
		c.Query = func(name string, payload []byte) []byte { return fmt.Appendf(nil, "%s %s %d", name, payload, i) }
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	answers, err := agents[1].Query(ctx, "status", []byte("now"))
	if err != nil {
		t.Fatal(err)
	}
	for range agents {
		r := <-answers
		i := r.Name[1] - '1'
		if string(r.Payload) != fmt.Sprintf("status now %d", i) || r.ID != agents[i].Self() {
			t.Errorf("%s answered %q", r.Name, r.Payload)
		}
	}
	cancel()
	if r, more := <-answers; more {
		t.Errorf("one answer too many: %v", r)
	}
}

func TestKeepJoined(t *testing.T) {
	first := startAgent(t, testConfig(t, "n1"))
	var mu sync.Mutex
	peers := []string{"127.0.0.1:1"} // nobody
	cfg := testConfig(t, "n2")
	tried := make(chan struct{}, 100)
	cfg.JoinBackoff, cfg.JoinBackoffMax = time.Millisecond, 20*time.Millisecond
	cfg.Peers = func() []string {
		tried <- struct{}{}
		mu.Lock()
		defer mu.Unlock()
		return peers
	}
	second := startAgent(t, cfg)
	<-tried
	<-tried
	mu.Lock()
	peers = append(peers, first.Addr())
	mu.Unlock()
	second.until(t, "the first agent", func() bool { return len(second.live()) == 1 })
	<-second.Synced()
	// The other leaves; its successor at another address is found again.
	if err := first.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third := startAgent(t, testConfig(t, "n3"))
	mu.Lock()
	peers = []string{third.Addr()}
	mu.Unlock()
	third.until(t, "the second agent", func() bool { return len(third.live()) == 1 })
}

func TestLeaveAndClose(t *testing.T) {
	agents := startRingOf(t, 3, nil)
	if err := agents[1].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	agents[0].until(t, "the leave", func() bool {
		for _, m := range agents[0].Members() {
			if m.Name == "n2" {
				return m.Status == StatusLeft
			}
		}
		return false
	})
	for range 2 {
		if err := agents[1].Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := agents[1].Leave(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("leave after close: %v", err)
	}
	if err := agents[1].SyncNow(t.Context(), Peer{ID: agents[0].Self()}); !errors.Is(err, ErrClosed) {
		t.Errorf("exchange after close: %v", err)
	}
	// The port is free again.
	cfg := testConfig(t, "n2")
	cfg.Bind = agents[1].Addr()
	startAgent(t, cfg)
}

func TestPortInUse(t *testing.T) {
	cfg := testConfig(t, "n1")
	a := startAgent(t, cfg)
	cfg.Replica, cfg.Bind = newTestReplica(), a.Addr()
	if _, err := Start(cfg); err == nil || !strings.Contains(err.Error(), a.Addr()) || !strings.Contains(err.Error(), "bind another port") {
		t.Errorf("a port in use: %v", err)
	}
}

// What startRing relies on: Serf's delegate is there when memberlist first
// calls FinalAdvertiseAddr, and ours is the one that memberlist then uses.
func TestDelegateOrder(t *testing.T) {
	a := startAgent(t, testConfig(t, "n1"))
	other := testKey(t)
	s := sign(t, other, "n2", 1)
	entry, err := entryOf(s, bundle.NodeIDOf(other.Public().(ed25519.PublicKey)), 1)
	if err != nil {
		t.Fatal(err)
	}
	packet := append(append([]byte{rumourMessage}, other.Seed()...), entry...)
	if err := a.sendRumour(Member{Addr: a.Addr(), Name: "n1"}, packet); err != nil {
		t.Fatal(err)
	}
	id := bundle.NodeIDOf(other.Public().(ed25519.PublicKey))
	a.until(t, "the packet in Merge", func() bool { return a.seq(id) == 1 })
}

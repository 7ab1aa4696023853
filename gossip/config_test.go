package gossip

import (
	"net"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
)

func TestValidate(t *testing.T) {
	good := testConfig(t, "n1")
	good.Replica = newTestReplica()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"node name \"\"":            func(c *Config) { c.Name = "" },
		"node name \"a b\"":         func(c *Config) { c.Name = "a b" },
		"identity key":              func(c *Config) { c.Key = c.Key[1:] },
		"no cluster":                func(c *Config) { c.Cluster = bundle.Digest{} },
		"gossip key has 31 bytes":   func(c *Config) { c.GossipKey = c.GossipKey[1:] },
		"bind address \"x\"":        func(c *Config) { c.Bind = "x" },
		"advertised address \":1\"": func(c *Config) { c.Advertise = ":1" },
		"tag \"id\"":                func(c *Config) { c.Tags = map[string]string{"id": "x"} },
		"tags take 301":             func(c *Config) { c.Tags = map[string]string{"x": strings.Repeat("x", 300)} },
		"no replica":                func(c *Config) { c.Replica = nil },
		"negative interval":         func(c *Config) { c.SyncInterval = -1 },
		"rumours to 0 peers":        func(c *Config) { c.RumourFanout = 0 },
		"join back-off":             func(c *Config) { c.Peers, c.JoinBackoffMax = func() []string { return nil }, 1 },
		"no logger":                 func(c *Config) { c.Log = nil },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := Start(c); err == nil {
			t.Errorf("started in spite of %q", want)
		}
	}
}

func TestBestInterface(t *testing.T) {
	addr := func(s string) net.Addr {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	order := []string{"127.0.0.1/8", "fe80::1/64", "2001:db8::1/64", "8.8.8.8/24", "fd00::1/64", "10.1.2.3/8"}
	var addrs []net.Addr
	for i, s := range order {
		addrs = append([]net.Addr{addr(s)}, addrs...)
		got := bestInterface(addrs)
		if i < 2 && got != nil || i >= 2 && !got.Equal(addrs[0].(*net.IPNet).IP) {
			t.Errorf("of %v: %v", addrs, got)
		}
	}
}

func TestAdvertised(t *testing.T) {
	bound := &net.TCPAddr{IP: net.ParseIP("10.0.0.1"), Port: 7}
	for in, want := range map[string]string{"": "10.0.0.1:7", "10.0.0.2:9": "10.0.0.2:9", "10.0.0.2:0": "10.0.0.2:7", "[::1]:5": "[::1]:5"} {
		got, err := advertised(t.Context(), bound, in)
		if err != nil || got.String() != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	if _, err := advertised(t.Context(), bound, "10.0.0.2:x"); err == nil {
		t.Error("a wrong port was taken")
	}
}

func TestQuiet(t *testing.T) {
	q := &Quiet{Every: 10 * time.Second}
	start := time.Unix(1000, 0)
	for i, c := range []struct {
		at         time.Duration
		suppressed int
		ok         bool
	}{{0, 0, true}, {1, 0, false}, {9 * time.Second, 0, false}, {10 * time.Second, 2, true}, {30 * time.Second, 0, true}} {
		if n, ok := q.now(start.Add(c.at)); n != c.suppressed || ok != c.ok {
			t.Errorf("step %d: %d, %v", i, n, ok)
		}
	}
}

func TestGuard(t *testing.T) {
	self, a, b := nodeID(1), nodeID(2), nodeID(3)
	g := newGuard(self, "me", "h:1")
	member := func(name string, id bundle.NodeID, addr string, s Status) Member {
		return Member{Name: name, ID: id, Addr: addr, Status: s}
	}
	conflict := func(want bool, name string, id bundle.NodeID, addr string) {
		t.Helper()
		if c := g.check(name, id, addr); (c != nil) != want {
			t.Errorf("%s of %s at %s: %v", name, id.Short(), addr, c)
		}
	}
	conflict(false, "n", a, "h:2") // nobody's name
	conflict(true, "me", a, "h:2") // one's own
	conflict(false, "me", a, "h:1")
	conflict(false, "me", self, "h:9")
	g.holds(member("n", a, "h:2", StatusAlive))
	conflict(false, "n", a, "h:2")
	conflict(true, "n", b, "h:3")
	conflict(true, "n", b, "h:2")
	if g.checkIdentity("m", a, "h:5") == nil || g.checkIdentity("m", a, "h:2") != nil || g.checkIdentity("n", a, "h:5") != nil {
		t.Error("one identity under two names")
	}
	g.holds(member("n", a, "h:2", StatusFailed))
	conflict(false, "n", b, "h:3") // its holder is dead
	g.holds(member("n", b, "h:3", StatusAlive))
	conflict(true, "n", a, "h:2") // and when it returns, late
	g.release("n", a, "h:2")
	conflict(true, "n", a, "h:2") // not a's to lose
	g.release("n", b, "h:3")
	conflict(false, "n", a, "h:2")
	g.release("me", self, "h:1")
	g.forget("me")
	g.holds(member("me", a, "h:2", StatusAlive))
	conflict(true, "me", a, "h:2") // one's own name is never lost
	g.forget("n")
	if _, ok := g.expect("n"); ok {
		t.Error("a forgotten name is expected")
	}
	now := time.Unix(1000, 0)
	c := Conflict{Name: "n", Claimant: a}
	if !g.news(c, now) || g.news(c, now.Add(reportAgainAfter-1)) || !g.news(c, now.Add(reportAgainAfter)) {
		t.Error("reports repeat, or end")
	}
}

// A name stays with the node that had it first, there or not, until nothing is known of
// that any more, or its own address proves another's.
func TestGuardOwners(t *testing.T) {
	self, a, b := nodeID(1), nodeID(2), nodeID(3)
	g := newGuard(self, "me", "h:1")
	refuses := func(want bool, name string, id bundle.NodeID) {
		t.Helper()
		if c := g.check(name, id, "h:9"); (c != nil) != want || want && !c.Away {
			t.Errorf("%s of %s: %v", name, id.Short(), c)
		}
	}
	if !g.own(Owner{"n", a, "h:2"}) || g.own(Owner{"n", b, "h:3"}) {
		t.Error("the first does not own the name")
	}
	refuses(true, "n", b)
	refuses(false, "n", a)
	g.release("n", a, "h:3") // which a has never said to be at
	refuses(true, "n", b)
	g.release("n", a, "h:2")
	refuses(false, "n", b)
	g.own(Owner{"n", a, "h:2"})
	g.own(Owner{"m", a, "h:2"}) // it has another name now
	refuses(false, "n", b)
	refuses(true, "m", b)
	g.disown(a)
	refuses(false, "m", b)
	g.holds(Member{Name: "n", ID: b, Addr: "h:3", Status: StatusAlive})
	if g.own(Owner{"n", a, "h:2"}) {
		t.Error("who lives under a name loses it by a record")
	}
	g.own(Owner{"me", a, "h:2"}) // somebody else's word of one's own name
	if c := g.check("me", self, "h:1"); c != nil {
		t.Errorf("the agent refuses itself: %v", c)
	}
}

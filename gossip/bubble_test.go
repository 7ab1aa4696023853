package gossip

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"moult/store/bundle"
)

// A bubbleRing is a ring of agents on a network in memory, in virtual time.
type bubbleRing struct {
	t       *testing.T
	network *memNetwork
	agents  []*testAgent
	seqs    []uint64
}

func bubbleAddr(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250+1) }

func (r *bubbleRing) config(i int) Config {
	cfg := testConfig(r.t, fmt.Sprintf("n%d", i))
	cfg.Bind = net.JoinHostPort(bubbleAddr(i), "7946")
	cfg.Network = r.network.at(bubbleAddr(i))
	cfg.Peers = func() []string {
		return []string{bubbleAddr(0) + ":7946", bubbleAddr(1) + ":7946", bubbleAddr(2) + ":7946"}
	}
	return cfg
}

// inBubble runs f with a ring of n agents, and ends everything afterwards.
func inBubble(t *testing.T, n int, loss float64, change func(*Config), f func(*bubbleRing)) {
	synctest.Test(t, func(t *testing.T) {
		r := &bubbleRing{t: t, network: newMemNetwork(uint64(n), loss), seqs: make([]uint64, n)}
		for i := range n {
			cfg := r.config(i)
			if change != nil {
				change(&cfg)
			}
			r.agents = append(r.agents, startAgent(t, cfg))
			time.Sleep(10 * time.Millisecond) // virtual
		}
		f(r)
		for _, a := range r.agents {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(5 * time.Minute) // memberlist's timers outlive its end
	})
}

// within waits for a condition in virtual time, and says how long it took.
func (r *bubbleRing) within(limit time.Duration, what string, ok func() bool) {
	r.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			r.t.Fatalf("after %v: never saw %s", limit, what)
		}
		time.Sleep(200 * time.Millisecond)
	}
	r.t.Logf("%s after %v", what, time.Since(start))
}

func (r *bubbleRing) allLive() bool {
	for _, a := range r.agents {
		if len(a.live()) != len(r.agents)-1 {
			return false
		}
	}
	return true
}

// write lets some agents change their records.
func (r *bubbleRing) write(agents ...int) {
	for _, i := range agents {
		r.seqs[i]++
		r.agents[i].Rumour(r.agents[i].record(r.t, r.seqs[i], ""))
	}
}

func (r *bubbleRing) equal() bool {
	for _, a := range r.agents {
		for i, seq := range r.seqs {
			if a.seq(r.agents[i].Self()) != seq {
				return false
			}
		}
	}
	return true
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func TestLossyRingConverges(t *testing.T) {
	for name, c := range map[string]struct {
		agents int
		change func(*Config)
	}{
		"rumours and anti-entropy": {20, nil},
		"anti-entropy alone":       {10, func(c *Config) { c.RumourInterval = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, c.agents, 0.3, c.change, func(r *bubbleRing) {
				r.within(2*time.Minute, "all members", r.allLive)
				for range 3 {
					r.write(upTo(c.agents)...)
					time.Sleep(700 * time.Millisecond)
				}
				r.within(10*time.Minute, "equal views", r.equal)
				hint := r.agents[7].setTrust(4, []byte("new"))
				if err := r.agents[7].Announce(hint); err != nil {
					t.Fatal(err)
				}
				r.within(10*time.Minute, "the announced set", func() bool {
					for _, a := range r.agents {
						if _, d, _ := a.TrustDigest(); d != hint.Digest {
							return false
						}
					}
					return true
				})
			})
		})
	}
}

func TestPartitionHeals(t *testing.T) {
	const n = 12
	inBubble(t, n, 0.05, nil, func(r *bubbleRing) {
		r.within(time.Minute, "all members", r.allLive)
		side := func(ip string) bool { return net.ParseIP(ip).To4()[3]%2 == 0 }
		r.network.partition(func(from, to string) bool { return side(from) != side(to) })
		r.write(upTo(n)...)
		r.within(5*time.Minute, "two rings", func() bool {
			for _, a := range r.agents {
				if len(a.live()) != n/2-1 {
					return false
				}
			}
			return true
		})
		if r.equal() {
			t.Error("the partition let something through")
		}
		r.network.partition(nil)
		r.within(5*time.Minute, "equal views", r.equal)
		r.within(5*time.Minute, "all members", r.allLive)
	})
}

// All agents end and start anew at once, with the same keys and addresses but
// without membership: Config.Peers alone brings them together again.
func TestFullOutageHeals(t *testing.T) {
	const n = 12
	inBubble(t, n, 0.1, nil, func(r *bubbleRing) {
		r.within(time.Minute, "all members", r.allLive)
		r.write(upTo(n)...)
		r.within(time.Minute, "equal views", r.equal)
		for i, a := range r.agents {
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			cfg := r.config(i)
			cfg.Key = a.key
			next := startAgent(t, cfg)
			next.Merge(next.Self(), a.Records([]bundle.NodeID{a.Self()})) // its own record is durable
			r.agents[i] = next
		}
		r.within(5*time.Minute, "all members", r.allLive)
		r.within(5*time.Minute, "equal views", r.equal)
		for _, a := range r.agents {
			select {
			case c := <-a.conflicts:
				t.Errorf("%s reported %v", a.cfg.Name, c)
			default:
			}
		}
	})
}

// An agent that comes back at another address, before the ring has noticed
// that it was gone, is let in under its name as soon as it has.
func TestMovedAgentIsLetIn(t *testing.T) {
	inBubble(t, 5, 0, nil, func(r *bubbleRing) {
		r.within(time.Minute, "all members", r.allLive)
		old := r.agents[4]
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		cfg := r.config(4)
		cfg.Key = old.key
		cfg.Bind = "10.9.9.9:7946"
		cfg.Network = r.network.at("10.9.9.9")
		r.agents[4] = startAgent(t, cfg)
		r.within(5*time.Minute, "the agent at its new address", func() bool {
			for _, a := range r.agents[:4] {
				moved := false
				for _, m := range a.live() {
					moved = moved || m.ID == old.Self() && m.Addr == "10.9.9.9:7946"
				}
				if !moved {
					return false
				}
			}
			return true
		})
	})
}

// The name of a node that has failed is nobody else's: whoever claims it is refused, and
// told why, and the node is let in when it returns. Forgotten, it has lost its name.
func TestFailedNodeKeepsItsName(t *testing.T) {
	inBubble(t, 5, 0, nil, func(r *bubbleRing) {
		r.within(time.Minute, "all members", r.allLive)
		failed, cfg := r.agents[4], r.config(4)
		cfg.Key = failed.key
		for _, a := range r.agents[:4] {
			a.Own(Owner{Name: cfg.Name, ID: failed.Self(), Addr: failed.Addr()})
		}
		if err := failed.Close(); err != nil {
			t.Fatal(err)
		}
		r.within(5*time.Minute, "the failure", func() bool {
			return len(r.agents[0].live()) == 3 && len(r.agents[1].live()) == 3
		})
		twin := r.config(4)
		twin.Bind, twin.Network, twin.Peers = "10.9.9.9:7946", r.network.at("10.9.9.9"), nil
		thief := startAgent(r.t, twin)
		defer thief.Close()
		_, err := thief.Join(r.t.Context(), []string{r.agents[0].Addr()})
		if err == nil || !strings.Contains(err.Error(), `node name "n4" belongs to node `+failed.Self().Short()) {
			t.Errorf("the name of a node that has failed: %v", err)
		}
		_, _ = thief.serf.Join([]string{r.agents[1].Addr()}, true) // without asking first
		time.Sleep(time.Minute)
		has := func(id bundle.NodeID) bool {
			for _, a := range r.agents[:4] {
				for _, m := range a.Members() {
					if m.ID == id && m.Status == StatusAlive {
						return true
					}
				}
			}
			return false
		}
		if has(thief.Self()) {
			t.Error("it was let in")
		}
		r.agents[4] = startAgent(r.t, cfg)
		r.within(5*time.Minute, "the node that has returned", r.allLive)
		if err := r.agents[4].Close(); err != nil {
			t.Fatal(err)
		}
		r.within(5*time.Minute, "the next failure", func() bool { return !has(failed.Self()) })
		for _, a := range r.agents[:4] {
			a.Disown(failed.Self())
		}
		if _, err := thief.Join(r.t.Context(), []string{r.agents[0].Addr()}); err != nil {
			t.Errorf("the name of a node that was forgotten: %v", err)
		}
		r.within(time.Minute, "the new node", func() bool { return has(thief.Self()) })
	})
}

// The checks above can fail: with replicas that all look alike, views do not
// converge by anti-entropy; nor do they by rumours told once.
func TestConvergenceCheckFindsBugs(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		blind  bool
	}{
		"blind replicas": {func(c *Config) { c.RumourInterval = 0 }, true},
		"rumours told once, no anti-entropy": {func(c *Config) {
			c.SyncInterval, c.RumourRounds, c.RumourFanout = 0, 1, 1
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 8, 0, c.change, func(r *bubbleRing) {
				for _, a := range r.agents {
					a.testReplica.mu.Lock()
					a.blind = c.blind
					a.testReplica.mu.Unlock()
				}
				r.within(2*time.Minute, "all members", r.allLive)
				r.write(upTo(8)...)
				time.Sleep(2 * time.Minute)
				if r.equal() {
					t.Error("views are equal in spite of the bug")
				}
			})
		})
	}
}

package gossip

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/serf/serf"

	"moult/store/bundle"
)

// A Conflict is a claim that the guard did not let in: a name or an identity
// that a live member holds already, or a name of another node, there or not.
type Conflict struct {
	Name         string        // the claimed name; this agent's own when it is the one not let in
	Holder       bundle.NodeID // who holds the name
	HolderAddr   string
	Claimant     bundle.NodeID // who else claims it
	ClaimantAddr string
	Away         bool // the holder is not there now
	// Hearsay: a peer says so, and it is yet to be seen.
	Hearsay bool
}

func (c Conflict) Error() string {
	if c.Holder == c.Claimant {
		return fmt.Sprintf("node ID %s is in use by node %q at %s and also at %s: a copied data folder? remove one",
			c.Holder.Short(), c.Name, c.HolderAddr, c.ClaimantAddr)
	}
	if c.Away && c.HolderAddr == "" {
		return fmt.Sprintf("node name %q is that of node %s, which is enrolled and was not heard of yet, so node %s at %s is not let in: give it another name, or, if node %s will not come, `moult member remove %s` lets others have its name",
			c.Name, c.Holder.Short(), c.Claimant.Short(), c.ClaimantAddr, c.Holder.Short(), c.Holder.Short())
	}
	if c.Away {
		return fmt.Sprintf("node name %q belongs to node %s, which is not there now, so node %s at %s is not let in: give it another name, or, if node %s is gone for good, `moult forget %s` lets others have its name",
			c.Name, c.Holder.Short(), c.Claimant.Short(), c.ClaimantAddr, c.Holder.Short(), c.Holder.Short())
	}
	return fmt.Sprintf("node name %q is in use by node %s at %s, so node %s at %s is not let in: give it another name, or stop the other one",
		c.Name, c.Holder.Short(), c.HolderAddr, c.Claimant.Short(), c.ClaimantAddr)
}

// An Owner is a node with the name and the address that it says it has.
type Owner struct {
	Name string
	ID   bundle.NodeID
	Addr string // host:port; "" where it has not said any
}

// A guard knows who holds which name. A name belongs to whom it was first
// seen with, for as long as that member lives, or something is known of the node (see
// Own); it also goes when the member's address proves another key, by TLS.
type guard struct {
	self     bundle.NodeID
	selfName string
	selfAddr string

	mu       sync.Mutex               // protects what follows
	holders  map[string]holder        // as the ring has them
	owners   map[string]holder        // as the nodes themselves say; all count as live
	names    map[bundle.NodeID]string // of owners
	reported map[conflictKey]time.Time
}

type holder struct {
	id   bundle.NodeID
	addr string
	live bool
}

type conflictKey struct {
	name     string
	claimant bundle.NodeID
}

const (
	reportAgainAfter = 5 * time.Minute
	maxReported      = 1024
)

func newGuard(self bundle.NodeID, name, addr string) *guard {
	return &guard{self: self, selfName: name, selfAddr: addr,
		holders: map[string]holder{name: {id: self, addr: addr, live: true}},
		owners:  map[string]holder{}, names: map[bundle.NodeID]string{},
		reported: map[conflictKey]time.Time{}}
}

// check returns the conflict that a claim makes, or nil.
func (g *guard) check(name string, id bundle.NodeID, addr string) *Conflict {
	if name == g.selfName && id != g.self && addr == g.selfAddr {
		// An echo of an earlier identity of this very agent: memberlist must
		// see it, to refute it.
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if h, ok := g.holders[name]; ok && h.live && h.id != id {
		return &Conflict{Name: name, Holder: h.id, HolderAddr: h.addr, Claimant: id, ClaimantAddr: addr}
	}
	if h, ok := g.owners[name]; ok && h.id != id && id != g.self {
		return &Conflict{Name: name, Holder: h.id, HolderAddr: h.addr, Claimant: id, ClaimantAddr: addr, Away: true}
	}
	return nil
}

// own notes an owner, where the name is nobody else's. It reports whether the name is the
// node's.
func (g *guard) own(o Owner) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if before, ok := g.names[o.ID]; ok && before != o.Name {
		delete(g.owners, before)
		delete(g.names, o.ID)
	}
	for _, h := range []holder{g.holders[o.Name], g.owners[o.Name]} {
		if !h.id.IsZero() && h.live && h.id != o.ID {
			return false
		}
	}
	g.owners[o.Name], g.names[o.ID] = holder{id: o.ID, addr: o.Addr, live: true}, o.Name
	return true
}

// disown says that nothing is known of a node any more.
func (g *guard) disown(id bundle.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.owners, g.names[id])
	delete(g.names, id)
}

// checkIdentity returns the conflict of one identity living under two names
// at two addresses, or nil.
func (g *guard) checkIdentity(name string, id bundle.NodeID, addr string) *Conflict {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, h := range g.holders {
		if h.live && h.id == id && n != name && h.addr != addr {
			return &Conflict{Name: n, Holder: id, HolderAddr: h.addr, Claimant: id, ClaimantAddr: addr}
		}
	}
	return nil
}

// elsewhere returns the name and another address at which an identity lives, as far as the ring
// knows.
func (g *guard) elsewhere(id bundle.NodeID, addr string) (name, other string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, h := range g.holders {
		if h.live && h.id == id && h.addr != addr {
			return n, h.addr
		}
	}
	return "", ""
}

// holds tells the guard of a member's state, as Serf reports it.
func (g *guard) holds(m Member) {
	if m.Name == g.selfName {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holders[m.Name] = holder{id: m.ID, addr: m.Addr, live: m.Status == StatusAlive || m.Status == StatusLeaving}
}

// forget drops a member that Serf has reaped.
func (g *guard) forget(name string) {
	if name == g.selfName {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.holders, name)
}

// release takes a name from its holder, since another node has answered at addr. Who owns
// the name loses it only where it has said itself that this is its address: what the ring
// says of addresses any member can make up.
func (g *guard) release(name string, id bundle.NodeID, addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h, ok := g.holders[name]; ok && h.id == id && name != g.selfName {
		h.live = false
		g.holders[name] = h
	}
	if o := g.owners[name]; o.id == id && o.addr == addr {
		delete(g.owners, name)
		delete(g.names, id)
	}
}

// expect returns the identity of the live holder of a name. Where there is none, whoever
// has the address may answer: else the ring would never again reach one that took it over.
func (g *guard) expect(name string) (bundle.NodeID, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h, ok := g.holders[name]; ok && h.live {
		return h.id, true
	}
	return bundle.NodeID{}, false
}

// news reports whether a conflict should be reported now: gossip repeats
// itself, people should not hear it each time.
func (g *guard) news(c Conflict, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := conflictKey{c.Name, c.Claimant}
	if at, ok := g.reported[key]; ok && now.Sub(at) < reportAgainAfter {
		return false
	}
	if len(g.reported) >= maxReported {
		clear(g.reported)
	}
	g.reported[key] = now
	return true
}

// mergeGuard is Serf's hook for claims of membership. Serf calls it for each
// alive message, with one member, and for a join, with all that the peer
// knows, dead ones too. The latter are left to the alive messages that follow.
// It runs under memberlist's lock: it only looks up and enqueues.
type mergeGuard struct {
	guard *guard
	found func(Conflict)
}

func (m mergeGuard) NotifyMerge(members []*serf.Member) error {
	if len(members) != 1 {
		return nil
	}
	claim, err := memberOf(*members[0])
	if err != nil {
		return err
	}
	if members[0].Status == serf.StatusLeft {
		return nil
	}
	if c := m.guard.check(claim.Name, claim.ID, claim.Addr); c != nil {
		m.found(*c)
		return c
	}
	return nil
}

package gossip

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"moult/gossip/view"
	"moult/store/bundle"
)

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("gossip is closed")

// Gossip is one agent's part in the ring. All methods are safe for concurrent
// use. Start makes it, Close ends it.
type Gossip struct {
	cfg       Config
	self      bundle.NodeID
	transport *transport
	guard     *guard
	serf      *serf.Serf
	events    chan serf.Event
	mail      *mailbox

	server   *http.Server
	syncing  *http.Client // the lane of anti-entropy
	working  *http.Client // the lane of Do
	serving  chan struct{}
	trusting chan struct{}

	told    chan view.Signed // to be told as rumours
	rumours chan []byte      // packets received
	hints   chan fetchHint
	urgent  chan Peer // exchange with these soon
	lonely  chan struct{}
	refused *refusedSets

	synced     chan struct{}
	syncedOnce sync.Once

	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	drained   chan struct{}
	closeOnce sync.Once
	closeErr  error

	conns  sync.WaitGroup // connections of the server
	leaves sync.WaitGroup // calls of Serf's Leave; memberlist panics when one runs into its shutdown

	mu     sync.Mutex // protects what follows
	report Report
	closed bool
}

// A Report tells what has come of gossip so far.
type Report struct {
	Exchanges uint64        // anti-entropy exchanges that this agent began and completed
	LastPeer  bundle.NodeID // of the last completed one
	LastTime  time.Time     // of the last completed one
	LastError string        // of the last failed one; empty when a later one was completed
	JoinError string        // of the last attempt by itself to join Config.Peers; empty after success
	// Refused is why peers do not let this agent in; "" where they do.
	Refused string
}

// Start opens the port and begins to gossip, alone until it has joined.
func Start(cfg Config) (*Gossip, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Tags = maps.Clone(cfg.Tags)
	packetKeys, proofKeys, err := keysOf(cfg)
	if err != nil {
		return nil, err
	}
	door, err := newGate(cfg.Key, cfg.Cluster, proofKeys)
	if err != nil {
		return nil, err
	}
	t, err := newTransport(context.Background(), cfg, door)
	if err != nil {
		return nil, err
	}
	self := bundle.NodeIDOf(cfg.Key.Public().(ed25519.PublicKey))
	g := &Gossip{
		cfg: cfg, self: self, transport: t,
		guard:    newGuard(self, cfg.Name, t.advertise.String()),
		events:   make(chan serf.Event, eventBuffer),
		mail:     newMailbox(),
		serving:  make(chan struct{}, maxConcurrentSyncs),
		trusting: make(chan struct{}, maxConcurrentTrust),
		told:     make(chan view.Signed, maxRumourPackets),
		rumours:  make(chan []byte, maxRumourPackets),
		hints:    make(chan fetchHint, maxHintFetches),
		urgent:   make(chan Peer, maxHints),
		lonely:   make(chan struct{}, 1),
		refused:  newRefusedSets(),
		synced:   make(chan struct{}),
		drained:  make(chan struct{}),
	}
	for _, o := range cfg.Owners {
		g.guard.own(o)
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	t.expect = g.guard.expect
	t.impostor = func(name string, err *IdentityError) { g.guard.release(name, err.Want, err.Addr) }
	g.syncing = g.newClient(maxSyncConnsPerPeer)
	g.working = g.newClient(maxWorkConnsPerPeer)
	g.server = g.newServer()
	go g.drain()
	if err := g.startRing(packetKeys); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.run(g.serve)
	g.run(g.watch)
	g.run(g.answerQueries)
	g.run(g.followHints)
	g.run(g.syncUrgent)
	g.run(g.syncRegularly)
	if cfg.RumourInterval > 0 {
		g.run(g.tellRumours)
		g.run(g.fetchHinted)
	}
	if cfg.Peers != nil {
		g.run(g.keepJoined)
	}
	return g, nil
}

// enter counts one more activity that Close waits for, unless it is too late.
func (g *Gossip) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wg.Add(1)
	}
	return !g.closed
}

func (g *Gossip) run(f func()) {
	if !g.enter() {
		return
	}
	go func() {
		defer g.wg.Done()
		f()
	}()
}

// Close leaves the ring without a farewell (see Leave) and frees the port. It
// may be called twice, and returns when all that Start began has ended;
// timers inside memberlist may outlive it by a probe's interval.
func (g *Gossip) Close() error {
	g.closeOnce.Do(func() {
		g.mu.Lock()
		g.closed = true
		g.mu.Unlock()
		g.leaves.Wait()
		g.cancel()
		_ = g.server.Close()
		if g.serf != nil {
			if err := g.serf.Shutdown(); err != nil {
				g.closeErr = fmt.Errorf("closing the ring: %w", err)
			}
		}
		_ = g.transport.Shutdown()
		g.syncing.CloseIdleConnections()
		g.working.CloseIdleConnections()
		close(g.drained)
		g.wg.Wait()
		g.conns.Wait() // the server has ended, so none are added any more
	})
	return g.closeErr
}

// Leave tells the ring that this agent goes on purpose, and waits until it
// has been told or ctx ends. Close must still be called.
func (g *Gossip) Leave(ctx context.Context) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return fmt.Errorf("leaving the ring: %w", ErrClosed)
	}
	g.leaves.Add(1)
	g.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		defer g.leaves.Done()
		done <- g.serf.Leave()
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("leaving the ring: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leaving the ring: %w: peers will find out by themselves", context.Cause(ctx))
	}
}

// Addr returns the host:port that peers are told.
func (g *Gossip) Addr() string { return g.transport.advertise.String() }

// Self returns this agent's identity.
func (g *Gossip) Self() bundle.NodeID { return g.self }

// Members returns the ring as Serf sees it, this agent included, by name.
func (g *Gossip) Members() []Member {
	var out []Member
	for _, m := range g.serf.Members() {
		if member, err := memberOf(m); err == nil {
			out = append(out, member)
		}
	}
	slices.SortFunc(out, func(a, b Member) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// live returns the other members that are alive, in random order.
func (g *Gossip) live() []Member {
	out := slices.DeleteFunc(g.Members(), func(m Member) bool { return m.ID == g.self || m.Status != StatusAlive })
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// Synced is closed when the first anti-entropy exchange that this agent began
// has been completed. It stays open for as long as no peer has answered: an
// agent that provably has no peers to ask must decide by itself what that
// means (see Report, Members).
func (g *Gossip) Synced() <-chan struct{} { return g.synced }

// Own tells what a node says of itself. The name is its alone from then on, whether or not
// it is there, until Disown, or until its address proves to be another node's. It reports
// whether the name is the node's: it is whose was told of first. Own and Disown never wait.
func (g *Gossip) Own(o Owner) bool { return g.guard.own(o) }

// Disown says that nothing is known of a node any more.
func (g *Gossip) Disown(id bundle.NodeID) { g.guard.disown(id) }

// Report tells what has come of gossip so far.
func (g *Gossip) Report() Report {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.report
}

// Announce tells the ring that a newer trust set exists here. Delivery is not
// certain; anti-entropy brings the set to those who did not hear.
func (g *Gossip) Announce(h Hint) error {
	payload, err := json.Marshal(announcement{h, g.self})
	if err != nil {
		return fmt.Errorf("announcing trust set %s: %w", h.Digest.Short(), err)
	}
	if err := g.serf.UserEvent(trustEvent, payload, false); err != nil {
		return fmt.Errorf("announcing trust set %s: %w", h.Digest.Short(), err)
	}
	return nil
}

// drain empties Serf's channel at once: Serf sends while it holds locks.
func (g *Gossip) drain() {
	for {
		select {
		case e := <-g.events:
			g.sort(e)
		case <-g.drained:
			return
		}
	}
}

func (g *Gossip) sort(e serf.Event) {
	switch e := e.(type) {
	case serf.MemberEvent:
		for _, m := range e.Members {
			g.noteMember(e.Type, m)
		}
		poke(g.mail.members)
	case serf.UserEvent:
		if e.Name != trustEvent {
			return
		}
		a, err := parseAnnouncement(e.Payload)
		if err != nil {
			g.cfg.Log.Debug("ignored an event", "err", err)
			return
		}
		if a.From != g.self {
			g.mail.hint(a)
		}
	case *serf.Query:
		g.mail.query(e)
	}
}

func (g *Gossip) noteMember(kind serf.EventType, m serf.Member) {
	member, err := memberOf(m)
	if err != nil {
		return
	}
	if kind == serf.EventMemberReap {
		g.guard.forget(member.Name)
		return
	}
	if c := g.guard.checkIdentity(member.Name, member.ID, member.Addr); c != nil && member.Status == StatusAlive {
		g.mail.conflict(*c)
	}
	g.guard.holds(member)
}

// watch reports changes of the ring, and looks into conflicts.
func (g *Gossip) watch() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.mail.members:
			poke(g.lonely)
			if g.cfg.MembersChanged != nil {
				g.cfg.MembersChanged()
			}
		case c := <-g.mail.conflicts:
			g.judge(c)
		}
	}
}

// judge reports a conflict, unless the holder's own address proves that it is
// the claimant's now: then the name goes over.
func (g *Gossip) judge(c Conflict) {
	if c.Hearsay {
		_, _ = g.hello(g.ctx, Peer{Addr: c.ClaimantAddr}) // which tells, if it is so
		return
	}
	if c.HolderAddr == c.ClaimantAddr && c.Holder != g.self {
		_, err := g.hello(g.ctx, Peer{ID: c.Holder, Addr: c.HolderAddr})
		var other *IdentityError
		if errors.As(err, &other) {
			g.guard.release(c.Name, c.Holder, c.HolderAddr)
			if _, err := g.serf.Join([]string{c.HolderAddr}, true); err != nil {
				g.cfg.Log.Info("cannot join a node that took over an address", "addr", c.HolderAddr, "err", err)
			}
			return
		}
	}
	if !g.guard.news(c, time.Now()) {
		return
	}
	g.cfg.Log.Warn("conflict in the ring", "err", c.Error())
	if g.cfg.Conflict != nil {
		g.cfg.Conflict(c)
	}
}

// Traffic returns the bytes that have gone between this agent and others.
func (g *Gossip) Traffic() Traffic {
	t := g.transport
	return Traffic{Packets: t.packeted.load(), Ring: t.ringed.load(), Peer: t.peered.load()}
}

// sendRumour sends one packet of ours to a member, encrypted by memberlist.
func (g *Gossip) sendRumour(to Member, packet []byte) error {
	return g.serf.Memberlist().SendToAddress(memberlist.Address{Addr: to.Addr, Name: to.Name}, packet)
}

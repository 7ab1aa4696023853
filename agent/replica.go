package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"moult/agent/home"
	"moult/agent/node"
	"moult/gossip"
	"moult/gossip/swarm"
	"moult/gossip/view"
	"moult/store/bundle"
)

// replica is the agent as anti-entropy sees it.
type replica struct{ a *Agent }

func (r replica) Buckets() []uint64 {
	b, _ := ask(r.a, &bucketsWanted{}) // an agent that ends knows nothing any more
	return b
}

func (r replica) Stamps(buckets []int) []view.Stamp {
	s, _ := ask(r.a, &stampsWanted{buckets: buckets})
	return s
}

func (l *loop) stamps(buckets []int) (s []view.Stamp) {
	for _, b := range buckets {
		s = append(s, l.node.View().Stamps(b)...)
	}
	return s
}

func (r replica) Records(ids []bundle.NodeID) []view.Signed {
	s, _ := ask(r.a, &recordsWanted{nodes: ids})
	return s
}

func (l *loop) records(ids []bundle.NodeID) (s []view.Signed) {
	for _, id := range ids {
		if r, ok := l.node.View().Signed(id); ok {
			s = append(s, r)
		}
	}
	return s
}

func (r replica) Merge(from bundle.NodeID, records []view.Signed) []view.Signed {
	news, _ := ask(r.a, &recordsBrought{from: from, records: records})
	return news
}

// trustHead names the set in force, and the one that proves something against it.
type trustHead struct {
	timestamp        int64
	digest, evidence bundle.Digest
}

func (r replica) TrustDigest() (timestamp int64, digest, evidence bundle.Digest) {
	h, _ := ask(r.a, &trustHeadWanted{})
	return h.timestamp, h.digest, h.evidence
}

func (l *loop) trustHead() trustHead {
	return trustHead{l.trust.Versions().Timestamp, l.trust.Digest(), l.node.Evidence().Digest}
}

func (r replica) TrustSet(d bundle.Digest) (raw []byte, ok bool) {
	v, err := ask(r.a, &setWanted{digest: d})
	if err != nil || v == nil {
		return nil, false
	}
	raw, err = v.Set().Marshal()
	return raw, err == nil
}

func (r replica) OfferTrust(from bundle.NodeID, set []byte) (settled bool) {
	settled, _ = ask(r.a, &setBrought{from: from, set: set})
	return settled
}

// takeSet judges a set of a peer. It reports whether that is all that there is to do; a
// set that could not be kept must come again.
func (l *loop) takeSet(from bundle.NodeID, set []byte) (settled bool) {
	err := l.acceptSet(set)
	if err != nil {
		l.noSets.Log(l.log, slog.LevelInfo, "trust metadata of a peer not taken", "peer", from.Short(), "err", err)
	}
	return !errors.Is(err, errNotKept)
}

// merge takes over the records that are news, and returns those of other nodes.
func (l *loop) merge(from bundle.NodeID, records []view.Signed) (news []view.Signed) {
	changed, err := l.node.Merge(time.Now(), records...)
	if err != nil {
		l.noRecords.Log(l.log, slog.LevelWarn, "records of a peer not taken", "peer", from.Short(), "err", err)
	}
	for _, id := range changed {
		l.dirty[id] = true
		l.noteName(id)
		if s, ok := l.node.View().Signed(id); ok && id != l.ID {
			news = append(news, s)
			l.see(id)
		}
	}
	return news
}

// see notes the phase of another node, where it is another than before.
func (l *loop) see(id bundle.NodeID) {
	r, ok := l.node.View().Get(id)
	if !ok || l.since[id].Equal(r.Since) {
		return
	}
	l.since[id] = r.Since
	if len(l.sighted) == maxSighted { // the disk is full, or slower than the news
		l.sighted = l.sighted[1:]
	}
	l.sighted = append(l.sighted, home.SightingOf(r))
}

// persistView writes the records that have changed to the store, some at a
// time. They are a cache: what is lost comes back from peers.
func (l *loop) persistView() {
	for batch := range slices.Chunk(slices.Collect(maps.Keys(l.dirty)), home.RecordsPerBatch) {
		err := l.remember(batch)
		if err != nil {
			l.log.Warn("view not written to the store", "err", err)
			return
		}
		for _, id := range batch {
			delete(l.dirty, id)
			if _, ok := l.node.View().Signed(id); !ok {
				delete(l.since, id)
			}
		}
	}
	l.keepSighted(maxKept)
}

// keepSighted writes what was seen of other nodes to the store, the oldest first and at most so
// many: the loop waits for it, and the rest for the next time.
func (l *loop) keepSighted(most int) {
	l.sighted = slices.DeleteFunc(l.sighted, func(s home.Sighting) bool { // of who is forgotten meanwhile
		_, ok := l.node.View().Signed(s.Node)
		return !ok
	})
	most = min(most, len(l.sighted))
	if err := l.AddSightings(l.sighted[:most]); err != nil {
		l.log.Warn("what was seen of other nodes is not written to the store", "err", err)
		return
	}
	l.sighted = slices.Delete(l.sighted, 0, most)
}

func (l *loop) remember(batch []bundle.NodeID) error {
	var all []home.Known
	for _, id := range batch {
		known, err := l.knownOf(id)
		if err != nil {
			return err
		}
		all = append(all, known)
	}
	return l.Remember(all)
}

// knownOf is what is to be kept of a node; of one that was forgotten, nothing.
func (l *loop) knownOf(id bundle.NodeID) (home.Known, error) {
	known := home.Known{Node: id}
	s, ok := l.node.View().Signed(id)
	if !ok {
		return known, nil
	}
	var err error
	if known.Record, err = s.Marshal(); err != nil {
		return known, err
	}
	if r, ok := l.node.View().Get(id); ok && l.noteName(id) {
		known.Name = r.Name
	}
	return known, nil
}

// noteName tells the ring what name a node says it has, and reports whether that is the
// node's: another may have had it first. Of a node that was forgotten none is.
func (l *loop) noteName(id bundle.NodeID) bool {
	r, ok := l.node.View().Get(id)
	if !ok || l.node.Stranger(id) {
		l.ring.Disown(id)
		return false
	}
	return l.ring.Own(ownerOf(r))
}

// noteEnrolled has names belong to those that are enrolled by them, also to nodes of which
// nothing is known yet, and to no stranger.
func (l *loop) noteEnrolled() {
	m := l.node.Members()
	if m == l.enrolled {
		return
	}
	l.enrolled = m
	for r := range l.node.View().All() {
		if l.node.Stranger(r.Node) {
			l.ring.Disown(r.Node)
		}
	}
	for _, o := range l.unheard() {
		l.ring.Own(o)
	}
	for r := range l.node.View().All() {
		l.noteName(r.Node)
	}
}

// unheard are the nodes that are enrolled by name and of which nothing is known.
func (l *loop) unheard() (all []gossip.Owner) {
	if !l.node.Closed() || l.node.Members() == nil {
		return nil
	}
	for _, e := range l.node.Members().Members {
		if _, heard := l.node.View().Get(e.Node); !heard {
			all = append(all, gossip.Owner{Name: e.Name, ID: e.Node})
		}
	}
	return all
}

func ownerOf(r view.Record) gossip.Owner { return gossip.Owner{Name: r.Name, ID: r.Node, Addr: r.Addr} }

// owners lists the nodes that have names: those first that are enrolled by them, then those
// that had them in an earlier run, for records alone do not tell who had one before the
// other.
func (l *loop) owners() (all []gossip.Owner, err error) {
	names, err := l.Names()
	if err != nil {
		return nil, err
	}
	had := func(r view.Record) bool { return r.Name != "" && names[r.Node] == r.Name }
	named := func(r view.Record) bool {
		e, ok := l.node.Members().Member(r.Node)
		return ok && e.Name == r.Name && l.node.Closed()
	}
	all = l.unheard()
	for _, turn := range []func(view.Record) bool{
		named,
		func(r view.Record) bool { return had(r) && !named(r) },
		func(r view.Record) bool { return !had(r) && !named(r) },
	} {
		for r := range l.node.View().All() {
			if turn(r) && !l.node.Stranger(r.Node) {
				all = append(all, ownerOf(r))
			}
		}
	}
	l.enrolled = l.node.Members()
	return all, nil
}

func callerOf(r *http.Request) swarm.Caller {
	id, _ := gossip.PeerID(r.Context()) // there is always one
	return swarm.Caller{From: gossip.SourceOf(r), Peer: id}
}

func (l *loop) openRing(c *closers) error {
	keys, err := l.GossipKeys()
	if err != nil {
		return err
	}
	if l.cfg.GossipKey == "" {
		l.log.Warn("no gossip_key is set: whoever has the cluster's root can join its ring")
	}
	a := l.Agent
	cfg := gossip.DefaultConfig()
	cfg.Name, cfg.Key, cfg.Cluster, cfg.GossipKey = l.cfg.Name, l.Key, l.Cluster, keys[0]
	if len(keys) > 1 {
		cfg.OtherGossipKey = keys[1]
	}
	cfg.Bind, cfg.Advertise, cfg.SyncInterval = l.cfg.Bind, l.cfg.Advertise, l.cfg.SyncInterval
	cfg.Replica, cfg.Log = replica{a}, l.log
	l.serve = swarm.NewServer(l.Depot, swarm.ServerOptions{Log: l.log, Caller: callerOf})
	cfg.Handler = l.serve
	cfg.Query = l.answerQuery
	cfg.Peers = l.seeds
	if cfg.Owners, err = l.owners(); err != nil {
		return err
	}
	cfg.MembersChanged = func() { a.send(ringChanged{}) }
	cfg.Conflict = func(c gossip.Conflict) {
		if c.Holder == a.ID && c.Claimant == a.ID {
			a.tell(node.Twin{Addr: c.ClaimantAddr})
			return
		}
		a.tell(alarm("%v", c))
	}
	if l.regaining != nil {
		cfg.Exchanged = func(with bundle.NodeID) { a.send(exchanged{with: with}) }
	}
	l.fetch = swarm.NewFetcher(ringPeers{a}, swarm.FetcherOptions{Log: l.log})
	if l.ring, err = gossip.Start(cfg); err != nil {
		return err
	}
	c.add(l.ring.Close)
	return nil
}

// seeds returns the addresses to join by: those configured, those remembered.
func (a *Agent) seeds() []string {
	addrs, err := a.Peers()
	if err != nil {
		a.log.Warn("remembered peers not read", "err", err)
	}
	return append(addrs, a.cfg.Join...)
}

// noteMembers notes who is alive, and keeps the addresses of peers, so that a
// full outage heals without flags.
func (l *loop) noteMembers() {
	alive := map[bundle.NodeID]bool{l.ID: true}
	fresh := map[string]string{}
	for _, m := range l.ring.Members() {
		if m.Status != gossip.StatusAlive {
			continue
		}
		alive[m.ID] = true
		if m.ID != l.ID && !l.known[m.Addr] && len(fresh) < home.RecordsPerBatch {
			fresh[m.Addr] = m.Name
		}
	}
	l.step(node.Members{Alive: alive})
	if len(fresh) == 0 {
		return
	}
	err := l.AddPeers(fresh)
	if err != nil {
		l.log.Warn("peers not remembered", "err", err)
		return
	}
	for addr := range fresh {
		l.known[addr] = true
	}
}

// ringPeers are the peers that chunks are fetched from.
type ringPeers struct{ a *Agent }

func (p ringPeers) Peers() []swarm.Peer {
	var peers []swarm.Peer
	for _, m := range p.a.ring.Members() {
		if m.ID != p.a.ID && m.Status == gossip.StatusAlive {
			peers = append(peers, swarm.Peer{ID: m.ID})
		}
	}
	return peers
}

func (p ringPeers) Get(ctx context.Context, peer bundle.NodeID, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return p.a.ring.Do(ctx, gossip.Peer{ID: peer}, req)
}

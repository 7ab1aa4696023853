package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"moult/agent/node"
	"moult/gossip"
	"moult/gossip/swarm"
	"moult/gossip/view"
	"moult/store"
	"moult/store/bundle"
)

// replica is the agent as anti-entropy sees it.
type replica struct{ a *Agent }

func (r replica) Buckets() (b []uint64) {
	r.a.ask(func() { b = r.a.node.View().Buckets() })
	return b
}

func (r replica) Stamps(buckets []int) (s []view.Stamp) {
	r.a.ask(func() {
		for _, b := range buckets {
			s = append(s, r.a.node.View().Stamps(b)...)
		}
	})
	return s
}

func (r replica) Records(ids []bundle.NodeID) (s []view.Signed) {
	r.a.ask(func() {
		for _, id := range ids {
			if rec, ok := r.a.node.View().Signed(id); ok {
				s = append(s, rec)
			}
		}
	})
	return s
}

func (r replica) Merge(from bundle.NodeID, records []view.Signed) (news []view.Signed) {
	r.a.ask(func() { news = r.a.merge(from, records) })
	return news
}

func (r replica) TrustDigest() (timestamp int64, digest, evidence bundle.Digest) {
	r.a.ask(func() {
		timestamp, digest, evidence = r.a.trust.Versions().Timestamp, r.a.trust.Digest(), r.a.node.Evidence().Digest
	})
	return timestamp, digest, evidence
}

func (r replica) TrustSet(d bundle.Digest) (raw []byte, ok bool) {
	r.a.ask(func() {
		if v := r.a.sets[d]; v != nil {
			var err error
			raw, err = v.Set().Marshal()
			ok = err == nil
		}
	})
	return raw, ok
}

func (r replica) OfferTrust(from bundle.NodeID, set []byte) (settled bool) {
	r.a.ask(func() { settled = r.a.offered(from, set) })
	return settled
}

// offered judges a set of a peer. It reports whether that is all that there is to do; a
// set that could not be kept must come again.
func (a *Agent) offered(from bundle.NodeID, set []byte) (settled bool) {
	err := a.acceptSet(set)
	if err != nil {
		a.noSets.Log(a.log, slog.LevelInfo, "trust metadata of a peer not taken", "peer", from.Short(), "err", err)
	}
	return !errors.Is(err, errNotKept)
}

// merge takes over the records that are news, and returns those of other nodes.
func (a *Agent) merge(from bundle.NodeID, records []view.Signed) (news []view.Signed) {
	changed, err := a.node.Merge(time.Now(), records...)
	if err != nil {
		a.noRecords.Log(a.log, slog.LevelWarn, "records of a peer not taken", "peer", from.Short(), "err", err)
	}
	for _, id := range changed {
		a.dirty[id] = true
		a.noteName(id)
		if s, ok := a.node.View().Signed(id); ok && id != a.id {
			news = append(news, s)
		}
	}
	return news
}

// persistView writes the records that have changed to the store, some at a
// time. They are a cache: what is lost comes back from peers.
func (a *Agent) persistView() {
	for batch := range slices.Chunk(slices.Collect(maps.Keys(a.dirty)), recordsPerBatch) {
		err := a.store.Update(func(tx *store.Tx) error {
			for _, id := range batch {
				s, ok := a.node.View().Signed(id)
				if !ok { // it was forgotten
					if err := errors.Join(tx.Delete(bucketView, id.String()), tx.Delete(bucketNames, id.String())); err != nil {
						return err
					}
					continue
				}
				raw, err := s.Marshal()
				if err != nil {
					return err
				}
				if err := tx.Put(bucketView, id.String(), raw); err != nil {
					return err
				}
				if !a.noteName(id) {
					err = tx.Delete(bucketNames, id.String())
				} else if r, ok := a.node.View().Get(id); ok {
					err = tx.Put(bucketNames, id.String(), []byte(r.Name))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			a.log.Warn("view not written to the store", "err", err)
			return
		}
		for _, id := range batch {
			delete(a.dirty, id)
		}
	}
}

// noteName tells the ring what name a node says it has, and reports whether that is the
// node's: another may have had it first. Of a node that was forgotten none is.
func (a *Agent) noteName(id bundle.NodeID) bool {
	if a.ring == nil {
		return false
	}
	r, ok := a.node.View().Get(id)
	if !ok || a.node.Stranger(id) {
		a.ring.Disown(id)
		return false
	}
	return a.ring.Own(ownerOf(r))
}

// noteEnrolled has names belong to those that are enrolled by them, also to nodes of which
// nothing is known yet, and to no stranger.
func (a *Agent) noteEnrolled() {
	m := a.node.Members()
	if a.ring == nil || m == a.enrolled {
		return
	}
	a.enrolled = m
	for r := range a.node.View().All() {
		if a.node.Stranger(r.Node) {
			a.ring.Disown(r.Node)
		}
	}
	for _, o := range a.unheard() {
		a.ring.Own(o)
	}
	for r := range a.node.View().All() {
		a.noteName(r.Node)
	}
}

// unheard are the nodes that are enrolled by name and of which nothing is known.
func (a *Agent) unheard() (all []gossip.Owner) {
	if !a.node.Closed() || a.node.Members() == nil {
		return nil
	}
	for _, e := range a.node.Members().Members {
		if _, heard := a.node.View().Get(e.Node); !heard {
			all = append(all, gossip.Owner{Name: e.Name, ID: e.Node})
		}
	}
	return all
}

func ownerOf(r view.Record) gossip.Owner { return gossip.Owner{Name: r.Name, ID: r.Node, Addr: r.Addr} }

// owners lists the nodes that have names: those first that are enrolled by them, then those
// that had them in an earlier run, for records alone do not tell who had one before the
// other.
func (a *Agent) owners() (all []gossip.Owner, err error) {
	had := map[bundle.NodeID]bool{}
	named := func(r view.Record) bool {
		e, ok := a.node.Members().Member(r.Node)
		return ok && e.Name == r.Name && a.node.Closed()
	}
	err = a.store.Each(bucketNames, func(key string, name []byte) error {
		id, err := bundle.ParseNodeID(key)
		if r, ok := a.node.View().Get(id); err == nil && ok && r.Name == string(name) {
			had[id] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all = a.unheard()
	for _, turn := range []func(view.Record) bool{
		named,
		func(r view.Record) bool { return had[r.Node] && !named(r) },
		func(r view.Record) bool { return !had[r.Node] && !named(r) },
	} {
		for r := range a.node.View().All() {
			if turn(r) && !a.node.Stranger(r.Node) {
				all = append(all, ownerOf(r))
			}
		}
	}
	a.enrolled = a.node.Members()
	return all, nil
}

// restoreView reads the records that earlier runs had seen.
func (a *Agent) restoreView(m *node.Memory) error {
	return a.store.Each(bucketView, func(key string, raw []byte) error {
		s, err := view.ParseSigned(raw)
		if err != nil {
			a.log.Warn("stored record not taken", "node", key, "err", err)
			return nil
		}
		m.Records = append(m.Records, s)
		return nil
	})
}

func callerOf(r *http.Request) swarm.Caller {
	id, _ := gossip.PeerID(r.Context()) // there is always one
	return swarm.Caller{From: gossip.SourceOf(r), Peer: id}
}

func (a *Agent) openRing(c *closers) error {
	keys, err := loadGossipKeys(a.cfg.GossipKey, a.cluster)
	if err != nil {
		return err
	}
	if a.cfg.GossipKey == "" {
		a.log.Warn("no gossip_key is set: whoever has the cluster's root can join its ring")
	}
	remembered, err := a.remembered()
	if err != nil {
		return err
	}
	cfg := gossip.DefaultConfig()
	cfg.Name, cfg.Key, cfg.Cluster, cfg.GossipKey = a.cfg.Name, a.key, a.cluster, keys[0]
	if len(keys) > 1 {
		cfg.OtherGossipKey = keys[1]
	}
	cfg.Bind, cfg.Advertise, cfg.SyncInterval = a.cfg.Bind, a.cfg.Advertise, a.cfg.SyncInterval
	cfg.Replica, cfg.Log = replica{a}, a.log
	cfg.Handler = swarm.NewServer(a.depot, swarm.ServerOptions{Log: a.log, Caller: callerOf})
	cfg.Query = a.answerQuery
	cfg.Peers = a.seeds
	if cfg.Owners, err = a.owners(); err != nil {
		return err
	}
	cfg.MembersChanged = func() { a.post(a.noteMembers) }
	cfg.Conflict = func(c gossip.Conflict) { a.post(func() { a.alarm("%v", c) }) }
	a.fetch = swarm.NewFetcher(ringPeers{a}, swarm.FetcherOptions{Log: a.log})
	a.alone = len(a.cfg.Join)+len(remembered) == 0
	if a.ring, err = gossip.Start(cfg); err != nil {
		return err
	}
	c.add(a.ring.Close)
	return nil
}

// remembered returns the addresses of peers seen in earlier runs.
func (a *Agent) remembered() (addrs []string, err error) {
	err = a.store.Each(bucketPeers, func(addr string, _ []byte) error {
		addrs = append(addrs, addr)
		return nil
	})
	return addrs, err
}

// seeds returns the addresses to join by: those configured, those remembered.
func (a *Agent) seeds() []string {
	addrs, err := a.remembered()
	if err != nil {
		a.log.Warn("remembered peers not read", "err", err)
	}
	return append(addrs, a.cfg.Join...)
}

// noteMembers notes who is alive, and keeps the addresses of peers, so that a
// full outage heals without flags.
func (a *Agent) noteMembers() {
	alive := map[bundle.NodeID]bool{a.id: true}
	fresh := map[string]string{}
	for _, m := range a.ring.Members() {
		if m.Status != gossip.StatusAlive {
			continue
		}
		alive[m.ID] = true
		if m.ID != a.id && !a.known[m.Addr] && len(fresh) < recordsPerBatch {
			fresh[m.Addr] = m.Name
		}
	}
	a.step(node.Members{Alive: alive})
	if len(fresh) == 0 {
		return
	}
	a.alone = false
	err := a.store.Update(func(tx *store.Tx) error {
		for addr, name := range fresh {
			if err := tx.Put(bucketPeers, addr, []byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		a.log.Warn("peers not remembered", "err", err)
		return
	}
	for addr := range fresh {
		a.known[addr] = true
	}
}

// ringPeers are the peers that chunks are fetched from.
type ringPeers struct{ a *Agent }

func (p ringPeers) Peers() []swarm.Peer {
	var peers []swarm.Peer
	for _, m := range p.a.ring.Members() {
		if m.ID != p.a.id && m.Status == gossip.StatusAlive {
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

package sim

import (
	"slices"
	"time"

	"moult/agent/node"
	"moult/gossip/view"
	"moult/store/bundle"
)

// network is what lies between the hosts. Each message may be lost, late,
// doubled, or overtaken by a later one.
type network struct {
	loss, twice, corrupt float64
	slowest              time.Duration
	cuts                 []*cut
}

// cut is a partition: nothing gets from the hosts of one side to the others,
// and unless it is one-way, nothing gets back.
type cut struct {
	side   [nodes]bool
	oneWay bool
}

// open reports whether the network lets anything through from one host to
// another now.
func (n *network) open(s *simulation, from, to *host) bool {
	return n.connected(from, to) && !s.chance(n.loss)
}

func (n *network) connected(from, to *host) bool {
	return !slices.ContainsFunc(n.cuts, func(c *cut) bool { return c.side[from.i] != c.side[to.i] && (c.side[from.i] || !c.oneWay) })
}

// answer returns who answers a host now, as a ring's failure detector sees it.
func (n *network) answer(s *simulation, from *host) map[bundle.NodeID]bool {
	alive := map[bundle.NodeID]bool{}
	for _, h := range s.hosts {
		alive[h.id] = h.agent != nil && n.connected(from, h) && n.connected(h, from)
	}
	return alive
}

// send brings a message to whatever agent runs at the other end when it
// arrives.
func (s *simulation) send(from, to *host, deliver func(*agent)) {
	copies := 1
	if s.chance(s.net.twice) {
		copies = 2
	}
	for range copies {
		if !s.net.open(s, from, to) {
			s.stats.Lost++
			continue
		}
		s.after(s.between(time.Millisecond, s.net.slowest), func() {
			if a := to.agent; a != nil {
				deliver(a)
				if a.alive() {
					a.flush()
				}
			}
		})
	}
}

// somebody returns another host.
func (s *simulation) somebody(not *host) *host {
	i := s.rng.IntN(nodes - 1)
	if i >= not.i {
		i++
	}
	return s.hosts[i]
}

func (s *simulation) index(id bundle.NodeID) int { return s.ids[id] }

// deliver takes over the records that a peer sent.
func (a *agent) deliver(records []view.Signed) {
	if len(records) == 0 {
		return
	}
	changed, err := a.node.Merge(a.clock(), a.s.plant.Merge(records)...)
	a.dirty = a.dirty || len(changed) > 0
	a.checkMerged(records, changed, err)
	a.flush()
}

// rumour tells the newest record of this host to some peer, in a while: what is
// superseded until then is not told. It may be mangled on the way.
func (a *agent) rumour(r view.Signed) {
	waiting := a.news != (view.Signed{})
	a.news = r
	if waiting {
		return
	}
	a.after(a.s.between(0, rumourInterval), func() {
		told := []view.Signed{a.news}
		a.news = view.Signed{}
		if a.s.chance(a.s.net.corrupt) {
			told = a.s.mangle(told[0])
		}
		a.s.send(a.h, a.s.somebody(a.h), func(b *agent) { b.deliver(told) })
	})
}

// mangle returns a record with a flipped bit; none if it does not even decode.
func (s *simulation) mangle(r view.Signed) []view.Signed {
	s.stats.Corrupted++
	raw := must(r.Marshal())
	raw[s.rng.IntN(len(raw))] ^= 1 << s.rng.IntN(8)
	mangled, err := view.ParseSigned(raw)
	if err != nil {
		return nil
	}
	return []view.Signed{mangled}
}

// syncSomebody runs one exchange with a random peer: bucket hashes there,
// stamps back, records there, records back, and metadata with them. It is one
// connection: when either end dies, so does the exchange.
func (a *agent) syncSomebody() {
	peer := a.s.somebody(a.h)
	hashes, timestamp, mine := a.node.View().Buckets(), a.timestamp(), a.set()
	from, boot := a.h, a.h.boot
	a.s.send(from, peer, func(b *agent) {
		answer := exchange{differ: view.DifferentBuckets(b.node.View().Buckets(), hashes)}
		snapshot := b.node.View().Snapshot()
		for _, i := range answer.differ {
			answer.stamps = append(answer.stamps, snapshot.Stamps(i))
		}
		if b.timestamp() > timestamp || b.timestamp() == timestamp && b.set() != mine {
			answer.set = b.set()
		}
		answer.peer, answer.boot, answer.timestamp = peer, peer.boot, b.timestamp()
		a.s.send(peer, from, func(a *agent) {
			if from.boot == boot {
				a.answered(answer)
			}
		})
	})
}

// exchange is what a peer answers.
type exchange struct {
	peer      *host
	boot      int
	timestamp int64
	set       *set
	differ    []int
	stamps    [][]view.Stamp
}

func (a *agent) answered(x exchange) {
	a.offer(x.set)
	if !a.alive() {
		return
	}
	var push []view.Signed
	var want []bundle.NodeID
	snapshot := a.node.View().Snapshot()
	for i, bucket := range x.differ {
		send, lacks := snapshot.Missing(bucket, x.stamps[i])
		push = append(push, send...)
		want = append(want, lacks...)
	}
	var newer *set
	if a.timestamp() > x.timestamp || a.timestamp() == x.timestamp && x.set != nil && a.set() != x.set {
		newer = a.set()
	}
	if len(want) == 0 {
		a.synced()
	}
	if len(want)+len(push) == 0 && newer == nil {
		return
	}
	from, boot := a.h, a.h.boot
	a.s.send(from, x.peer, func(b *agent) {
		if b.h.boot != x.boot {
			return
		}
		b.deliver(push)
		if !b.alive() {
			return
		}
		b.offer(newer)
		snapshot := b.node.View().Snapshot()
		var found []view.Signed
		for _, id := range want {
			if r, ok := snapshot.Signed(id); ok {
				found = append(found, r)
			}
		}
		b.s.send(b.h, from, func(a *agent) {
			if from.boot == boot {
				a.deliver(found)
				a.synced()
			}
		})
	})
}

// synced notes that an exchange has ended.
func (a *agent) synced() {
	if !a.exchanged && a.alive() {
		a.exchanged = true
		a.tell(node.Synced{})
	}
}

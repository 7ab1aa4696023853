package swarm

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"moult/store/bundle"
)

// Peer is somebody to fetch from.
type Peer struct {
	ID bundle.NodeID
	// Origin: all that there is can be had here, as it was injected here; so
	// everybody else asks here, too.
	Origin bool
}

// Ask is one request that a Planner decides upon: a chunk, by its index in the
// artifact's table, from a peer.
type Ask struct {
	Peer  bundle.NodeID
	Chunk int
}

// Planner decides which chunk to ask of which peer next. It is pure: no clock, no
// network, no chance but the source that it is given; the same calls
// give the same asks. It is not safe for concurrent use.
//
// Its promises: no peer is asked for what it has not said to have; no chunk is
// asked of one peer twice at a time, and of a second peer only while every
// first one is slow; no peer has more asks than its limit, nor all together
// more than MaxInFlight; a banned or resting peer gets none; and while some
// peer that is not an origin is free and has a chunk, no origin is asked for
// it.
type Planner struct {
	total   int
	missing []int    // sorted; what is still to be had
	isOpen  []bool   // by chunk: is missing
	order   []uint32 // by chunk: this planner's own order among equally rare ones
	holders []int    // by chunk: how many peers have it
	others  []int    // by chunk: how many of them are to be preferred to an origin
	asked   map[int][]bundle.NodeID
	peers   map[bundle.NodeID]*planned
	ids     []bundle.NodeID // keys of peers, in the order of their arrival
	flying  int
	rng     *rand.Rand
	scan    int // maxScan, except in tests

	// preferOrigin plants a bug: an origin is asked like everybody.
	preferOrigin bool
}

// planned is what a Planner knows of one peer.
type planned struct {
	peer    Peer
	bits    []byte
	flying  int
	slow    bool
	resting bool
	banned  bool
}

// NewPlanner plans the fetch of the missing chunks out of a table of total
// ones. The planner has no peers yet.
func NewPlanner(total int, missing []int, rng *rand.Rand) *Planner {
	p := &Planner{total: total, missing: slices.Clone(missing), isOpen: make([]bool, total), order: make([]uint32, total),
		holders: make([]int, total), others: make([]int, total), asked: map[int][]bundle.NodeID{},
		peers: map[bundle.NodeID]*planned{}, rng: rng, scan: maxScan}
	slices.Sort(p.missing)
	for _, c := range p.missing {
		p.isOpen[c] = true
	}
	for i := range p.order {
		p.order[i] = rng.Uint32()
	}
	return p
}

// Left returns how many chunks are still missing.
func (p *Planner) Left() int { return len(p.missing) }

// SetPeers says who is there. Of those that have gone nothing is asked any
// more; a ban outlives an absence.
func (p *Planner) SetPeers(peers []Peer) {
	here := make(map[bundle.NodeID]bool, len(peers))
	for _, peer := range peers {
		here[peer.ID] = true
		q := p.peers[peer.ID]
		if q == nil {
			q = &planned{peer: peer}
			p.peers[peer.ID] = q
			p.ids = append(p.ids, peer.ID)
		}
		p.change(q, func() { q.peer = peer })
	}
	for id, q := range p.peers {
		if here[id] {
			continue
		}
		p.change(q, func() { q.bits = nil })
		if q.flying == 0 && !q.banned {
			delete(p.peers, id)
			p.ids = slices.DeleteFunc(p.ids, func(x bundle.NodeID) bool { return x == id })
		}
	}
}

// SetHave says what a peer has, in place of what it had; it returns how many
// missing chunks are news. bits are not changed, and remain the caller's.
func (p *Planner) SetHave(id bundle.NodeID, bits []byte) (news int) {
	q := p.peers[id]
	if q == nil {
		return 0
	}
	for _, c := range p.missing {
		if bit(bits, c) && !bit(q.bits, c) {
			news++
		}
	}
	p.change(q, func() { q.bits = slices.Clone(bits) })
	return news
}

// Useful reports whether a peer has something that is missing.
func (p *Planner) Useful(id bundle.NodeID) bool {
	q := p.peers[id]
	return q != nil && !q.banned && slices.ContainsFunc(p.missing, func(c int) bool { return bit(q.bits, c) })
}

// Complete reports whether a peer has said to have every missing chunk.
func (p *Planner) Complete(id bundle.NodeID) bool {
	q := p.peers[id]
	return q != nil && !slices.ContainsFunc(p.missing, func(c int) bool { return !bit(q.bits, c) })
}

// Ban: the peer has lied. That holds also for one that is not there now.
func (p *Planner) Ban(id bundle.NodeID) {
	q := p.peers[id]
	if q == nil {
		q = &planned{peer: Peer{ID: id}}
		p.peers[id] = q
		p.ids = append(p.ids, id)
	}
	p.change(q, func() { q.banned = true })
}

// Banned reports whether a peer has been banned.
func (p *Planner) Banned(id bundle.NodeID) bool {
	q := p.peers[id]
	return q != nil && q.banned
}

// Rest: the peer is to be left alone until Wake.
func (p *Planner) Rest(id bundle.NodeID) {
	if q := p.peers[id]; q != nil {
		p.change(q, func() { q.resting = true })
	}
}

// Wake ends a rest.
func (p *Planner) Wake(id bundle.NodeID) {
	if q := p.peers[id]; q != nil {
		p.change(q, func() { q.resting = false })
	}
}

// Slow: an ask takes long. It goes on, but another peer may be asked, too.
func (p *Planner) Slow(a Ask) {
	if q := p.peers[a.Peer]; q != nil {
		p.change(q, func() { q.slow = true })
	}
}

// Done ends an ask that brought the chunk. quick clears the name of a peer
// that was slow.
func (p *Planner) Done(a Ask, quick bool) {
	p.end(a)
	p.Have(a.Chunk)
	if q := p.peers[a.Peer]; q != nil && quick {
		p.change(q, func() { q.slow = false })
	}
}

// Have says that a chunk is here, wherever it came from.
func (p *Planner) Have(chunk int) {
	if !p.isOpen[chunk] {
		return
	}
	p.isOpen[chunk] = false
	if i, ok := slices.BinarySearch(p.missing, chunk); ok {
		p.missing = slices.Delete(p.missing, i, i+1)
	}
}

// Failed ends an ask that brought nothing.
func (p *Planner) Failed(a Ask) { p.end(a) }

// Lacks ends an ask that the peer answered by "I do not have it".
func (p *Planner) Lacks(a Ask) {
	p.end(a)
	q := p.peers[a.Peer]
	if q == nil || !bit(q.bits, a.Chunk) {
		return
	}
	p.change(q, func() { q.bits[a.Chunk/8] &^= 1 << (a.Chunk % 8) })
}

func (p *Planner) end(a Ask) {
	askers := p.asked[a.Chunk]
	i := slices.Index(askers, a.Peer)
	if i < 0 {
		return
	}
	p.flying--
	if askers = slices.Delete(askers, i, i+1); len(askers) == 0 {
		delete(p.asked, a.Chunk)
	} else {
		p.asked[a.Chunk] = askers
	}
	if q := p.peers[a.Peer]; q != nil {
		q.flying--
	}
}

// change changes a peer, and what is counted of it by chunk.
func (p *Planner) change(q *planned, fn func()) {
	p.count(q, -1)
	fn()
	p.count(q, +1)
}

func (p *Planner) count(q *planned, n int) {
	if q.banned || q.bits == nil {
		return
	}
	other := !q.peer.Origin && !q.slow && !q.resting
	for _, c := range p.missing {
		if bit(q.bits, c) {
			p.holders[c] += n
			if other {
				p.others[c] += n
			}
		}
	}
}

// Next returns the asks to start now. They count as started: each must end by
// Done, Failed or Lacks.
func (p *Planner) Next() []Ask {
	var asks []Ask
	// Round by round one ask for each peer, the origins after the others, so
	// that what is left for an origin is what nobody else is free to give.
	for {
		n := len(asks)
		for _, q := range p.turn() {
			if p.flying >= MaxInFlight {
				return asks
			}
			c, ok := p.pick(q)
			if !ok {
				continue
			}
			p.asked[c] = append(p.asked[c], q.peer.ID)
			q.flying++
			p.flying++
			asks = append(asks, Ask{q.peer.ID, c})
		}
		if len(asks) == n {
			return asks
		}
	}
}

// turn returns the peers that may be asked, those first that are to be
// preferred.
func (p *Planner) turn() []*planned {
	var free, origins []*planned
	for _, id := range p.ids {
		q := p.peers[id]
		if q.banned || q.resting || q.bits == nil || q.flying >= q.limit() {
			continue
		}
		if q.peer.Origin && !p.preferOrigin {
			origins = append(origins, q)
		} else {
			free = append(free, q)
		}
	}
	p.rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	slices.SortStableFunc(free, func(a, b *planned) int { return cmp.Compare(a.flying, b.flying) })
	// Origins only when nobody else can take anything.
	if slices.ContainsFunc(free, func(q *planned) bool { _, ok := p.pick(q); return ok }) {
		return free
	}
	return origins
}

func (q *planned) limit() int {
	switch {
	case q.slow:
		return 1
	case q.peer.Origin:
		return perOrigin
	}
	return perPeer
}

// pick returns the rarest chunk that a peer may be asked for. In a large
// artifact it is the rarest of maxScan chunks, beginning anywhere, if one of
// them will do.
func (p *Planner) pick(q *planned) (chunk int, ok bool) {
	n, start, best := len(p.missing), 0, -1
	if n > p.scan {
		start = int(p.order[0]) % n
	}
	for i := range n {
		if i >= p.scan && best >= 0 {
			break
		}
		c := p.missing[(start+i)%n]
		if !bit(q.bits, c) || best >= 0 && !p.rarer(c, best) || !p.mayAsk(q, c) {
			continue
		}
		best = c
	}
	return best, best >= 0
}

func (p *Planner) rarer(a, b int) bool {
	return cmp.Or(cmp.Compare(p.holders[a], p.holders[b]), cmp.Compare(p.order[a], p.order[b])) < 0
}

func (p *Planner) mayAsk(q *planned, c int) bool {
	// Of what others have, an origin gives a trickle only.
	if q.peer.Origin && !p.preferOrigin && p.others[c] > 0 && q.flying > 0 {
		return false
	}
	askers := p.asked[c]
	if len(askers) == 0 {
		return true
	}
	if q.slow || len(askers) > 1 {
		return false
	}
	first := p.peers[askers[0]]
	return askers[0] != q.peer.ID && (first == nil || first.slow)
}

// bit returns bit i; bits beyond the end are 0.
func bit(bits []byte, i int) bool { return i/8 < len(bits) && bits[i/8]&(1<<(i%8)) != 0 }

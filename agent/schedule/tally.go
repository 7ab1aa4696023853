package schedule

import (
	"math/bits"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Tally is what a whole view comes to under one order: which places are open, who has failed,
// and so on. Decide makes one for itself; who asks often, with many nodes, keeps one, and
// tells it of each record that is news. It is not safe for concurrent use.
type Tally struct {
	order   *Order
	rule    rule
	lookup  func(bundle.NodeID) (view.Record, bool)
	classes map[bundle.Class]*counts
	counted []*counts // the same, in the order in which they were first asked for
}

// NewTally returns the tally of an order. What a node says when it is first asked for comes
// from lookup; what it says later from Note, for this node's own record too.
func NewTally(o *Order, lookup func(bundle.NodeID) (view.Record, bool)) *Tally {
	return theRule().tally(o, lookup)
}

func (ru rule) tally(o *Order, lookup func(bundle.NodeID) (view.Record, bool)) *Tally {
	return &Tally{order: o, rule: ru, lookup: lookup, classes: map[bundle.Class]*counts{}}
}

// Of reports whether t, which may be nil, is the tally of an order: of this very value.
func (t *Tally) Of(o *Order) bool { return t != nil && t.order == o }

// Note takes over what a node says now; known is false where nothing is known of it any more.
func (t *Tally) Note(id bundle.NodeID, rec view.Record, known bool) {
	for _, n := range t.counted {
		if m, ok := n.index[id]; ok {
			n.note(t, m, rec, known)
		}
	}
}

// NoteAll takes over what lookup says of some nodes.
func (t *Tally) NoteAll(nodes []bundle.NodeID, lookup func(bundle.NodeID) (view.Record, bool)) {
	for _, id := range nodes {
		rec, known := lookup(id)
		t.Note(id, rec, known)
	}
}

// of returns what a class comes to.
func (t *Tally) of(class bundle.Class) *counts {
	n := t.classes[class]
	if n == nil {
		n = t.count(class)
		t.classes[class] = n
		t.counted = append(t.counted, n)
	}
	return n
}

// counts are the sets of one class. Those by rank leave out skipped places, those by member
// the nodes that are skipped.
type counts struct {
	places  []place // by rank
	members []member
	index   map[bundle.NodeID]int
	roster  []int // of each member, where in the roster its first place is
	first   []int // of each member, a rank of its places; -1: none
	next    []int // of each rank, the next rank of the same member; -1: none

	open        set // by rank: the place is not over
	soaking     set // by rank: its node has settled, and says not yet that its soak has passed
	failed      set // by member
	unwell      set // by member: at the release, and not well
	elsewhere   set // by member: has not said that it is where the order leads
	final       set // by member: has begun to finalize the release by its own word
	earlier     set // by member: may be down under an earlier order
	unsettled   set // by member: who settles after its class waits for it
	unrehearsed set // by member: will say more of its rehearsal
}

func (t *Tally) count(class bundle.Class) *counts {
	c := t.order.Classes[class]
	n := &counts{places: c.ranked(), index: make(map[bundle.NodeID]int, len(c.Roster))}
	n.members = c.members()
	n.roster = make([]int, len(n.members))
	n.first, n.next = make([]int, len(n.members)), make([]int, len(n.places))
	for i, m := range n.members {
		n.index[m.id], n.first[i] = i, -1
	}
	for i := len(c.Roster) - 1; i >= 0; i-- {
		n.roster[n.index[c.Roster[i]]] = i
	}
	for rank := len(n.places) - 1; rank >= 0; rank-- {
		if p := n.places[rank]; !p.skipped {
			m := n.index[p.node]
			n.next[rank], n.first[m] = n.first[m], rank
		}
	}
	n.open, n.soaking = newSet(len(n.places)), newSet(len(n.places))
	for _, s := range []*set{&n.failed, &n.unwell, &n.elsewhere, &n.final, &n.earlier, &n.unsettled, &n.unrehearsed} {
		*s = newSet(len(n.members))
	}
	for i, m := range n.members {
		rec, known := t.lookup(m.id)
		n.note(t, i, rec, known)
	}
	return n
}

func (n *counts) note(t *Tally, m int, rec view.Record, known bool) {
	attempts, release := n.members[m].attempts, t.order.Release
	if attempts == 0 {
		return
	}
	there := known && t.order.Arrived(rec)
	failed := known && hasFailed(t.order, attempts, rec)
	soaks := there && !rec.Left && !failed && (rec.Health.State == "" || rec.Health.Soaked < release)
	for rank := n.first[m]; rank >= 0; rank = n.next[rank] {
		n.open.put(rank, !t.rule.over(t.order, n.places[rank].attempt, rec, known))
		n.soaking.put(rank, soaks)
	}
	n.failed.put(m, failed)
	n.unwell.put(m, there && !rec.Left && rec.Health.Unwell())
	n.elsewhere.put(m, !there)
	n.final.put(m, known && t.order.FinalBy(rec))
	n.earlier.put(m, !t.rule.beyond(t.order, rec, known))
	n.unsettled.put(m, !rec.Left && !(there && !rec.Health.Unwell()))
	n.unrehearsed.put(m, !(known && saysNoMore(rec, t.order, attempts)))
}

// attempts is how many places of a node are not skipped, and whether it has any.
func (n *counts) attempts(id bundle.NodeID) (attempts int, named bool) {
	m, named := n.index[id]
	if named {
		attempts = n.members[m].attempts
	}
	return attempts, named
}

// place returns the place for an attempt of a node.
func (n *counts) place(id bundle.NodeID, attempt int) (place, bool) {
	for rank := n.first[n.index[id]]; rank >= 0; rank = n.next[rank] {
		if n.places[rank].attempt == attempt {
			return n.places[rank], true
		}
	}
	return place{}, false
}

// opens reports whether a member has an open place of a rank less than upTo; within, whether
// it has any such place.
func (n *counts) opens(m, upTo int) bool {
	for rank := n.first[m]; rank >= 0 && rank < upTo; rank = n.next[rank] {
		if n.open.has(rank) {
			return true
		}
	}
	return false
}

func (n *counts) within(m, upTo int) bool { return n.first[m] >= 0 && n.first[m] < upTo }

// set is a set of small numbers.
type set struct {
	words []uint64
	n     int // how many
}

func newSet(size int) set { return set{words: make([]uint64, (size+63)/64)} }

func (s *set) has(i int) bool { return s.words[i/64]&(1<<(i%64)) != 0 }

func (s *set) put(i int, in bool) {
	if s.has(i) == in {
		return
	}
	s.words[i/64] ^= 1 << (i % 64)
	if s.n++; !in {
		s.n -= 2
	}
}

// all yields the numbers from from on, rising, that are less than to.
func (s *set) all(from, to int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for w := from / 64; w < len(s.words) && w*64 < to; w++ {
			word := s.words[w]
			if w == from/64 {
				word &= ^uint64(0) << (from % 64)
			}
			for ; word != 0; word &= word - 1 {
				i := w*64 + bits.TrailingZeros64(word)
				if i >= to || !yield(i) {
					return
				}
			}
		}
	}
}

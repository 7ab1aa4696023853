package so

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync"
)

// scratch is memory for the objects that one call reads and makes, which the next
// call uses again: most of what a mapping would allocate. A nil scratch allocates.
type scratch struct {
	members []member
	taken   int // of members, those included for which there was no room
	docs    []document
	machine machine
	names   []span // of the small objects that a scanner has open
	large   nameTable
}

// span is where something lies in a text.
type span struct{ start, end uint32 }

// scratches keep the memory of the calls of one Rules.
type scratches struct{ pool sync.Pool }

func (p *scratches) get() *scratch {
	if s, ok := p.pool.Get().(*scratch); ok {
		return s
	}
	return &scratch{}
}

// put takes back s, of which nothing is in use any more.
func (p *scratches) put(s *scratch) {
	clear(s.members)
	clear(s.docs)
	s.docs, s.machine = s.docs[:0], machine{}
	s.members = s.members[:0]
	switch {
	case s.taken > keptMembers:
		s.members = nil
	case s.taken > cap(s.members):
		s.members = make([]member, 0, s.taken)
	}
	s.taken = 0
	if cap(s.large.slots) > keptMembers {
		s.large.slots = nil
	}
	if cap(s.names) > keptMembers {
		s.names = nil
	}
	p.pool.Put(s)
}

// take returns an empty list with room for n members.
func (s *scratch) take(n int) []member {
	if s == nil {
		return make([]member, 0, n)
	}
	s.taken += n
	start := len(s.members)
	if cap(s.members)-start < n {
		s.members = make([]member, 0, max(128, 2*n))
		start = 0
	}
	s.members = s.members[:start+n]
	return s.members[start : start : start+n]
}

// document returns a new document.
func (s *scratch) document(raw []byte, members []member) *document {
	if s == nil {
		return &document{raw, members}
	}
	if len(s.docs) == cap(s.docs) {
		s.docs = make([]document, 0, 16) // the others stay where they are
	}
	s.docs = append(s.docs, document{raw, members})
	return &s.docs[len(s.docs)-1]
}

// run returns the machine for an expression. There is never more than one at work.
func (s *scratch) run(c *clock) *machine {
	if s == nil {
		return &machine{clock: c}
	}
	s.machine = machine{clock: c}
	return &s.machine
}

// nameTable finds names that come twice in objects with many names. Objects that
// are open within each other have their parts of slots one behind the other, and
// only the last part changes.
type nameTable struct {
	seed  maphash.Seed
	ready bool // seed is one
	slots []nameSlot
}

// nameSlot is a name; it is free where its end is 0.
type nameSlot struct {
	hash uint32
	span
}

// nameSet is one object's part of a nameTable: the slots from at on, a power of
// two of them. The zero nameSet is of no object.
type nameSet struct{ at, size, used int }

// open begins a set.
func (t *nameTable) open() nameSet {
	if !t.ready {
		t.seed, t.ready = maphash.MakeSeed(), true
	}
	set := nameSet{at: len(t.slots), size: 64}
	t.grow(set.size)
	return set
}

// grow adds free slots.
func (t *nameTable) grow(n int) {
	old := len(t.slots)
	if cap(t.slots) < old+n {
		slots := make([]nameSlot, old, 2*(old+n))
		copy(slots, t.slots)
		t.slots = slots
	}
	t.slots = t.slots[:old+n]
	clear(t.slots[old:])
}

// close gives back the slots of the set that was opened last.
func (t *nameTable) close(set nameSet) {
	if set.size > 0 {
		t.slots = t.slots[:set.at]
	}
}

// add puts a name of data into a set, which is the last one; false: it is there.
func (t *nameTable) add(set *nameSet, data []byte, where span) bool {
	if 4*set.used >= 3*set.size {
		t.widen(set)
	}
	name := data[where.start:where.end]
	hash := uint32(maphash.Bytes(t.seed, name))
	for i := hash; ; i++ {
		slot := &t.slots[set.at+int(i)&(set.size-1)]
		switch {
		case slot.end == 0:
			*slot = nameSlot{hash, where}
			set.used++
			return true
		case slot.hash == hash && bytes.Equal(data[slot.start:slot.end], name):
			return false
		}
	}
}

// widen makes the last set four times as large.
func (t *nameTable) widen(set *nameSet) {
	old := slices.Clone(t.slots[set.at:])
	t.slots = t.slots[:set.at]
	set.size *= 4
	t.grow(set.size)
	for _, slot := range old {
		if slot.end == 0 {
			continue
		}
		i := slot.hash
		for t.slots[set.at+int(i)&(set.size-1)].end > 0 {
			i++
		}
		t.slots[set.at+int(i)&(set.size-1)] = slot
	}
}

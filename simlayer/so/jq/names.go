package jq

import (
	"bytes"
	"hash/maphash"
	"slices"
)

// span is where something lies in a text.
type span struct{ start, end uint32 }

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

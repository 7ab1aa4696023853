package jq

import (
	"slices"
	"sync"
)

// Memory is for the objects that one call reads and makes, and the next call uses it
// again: most of what a mapping would allocate. A nil Memory allocates.
type Memory struct {
	members []member
	taken   int // of members, those included for which there was no room
	docs    []document
	names   []span // of the small objects that a scanner has open
	large   nameTable
}

// Pool keeps memory between calls. The zero Pool is ready; it is safe for
// concurrent use.
type Pool struct{ pool sync.Pool }

// Get returns memory for one call.
func (p *Pool) Get() *Memory {
	if s, ok := p.pool.Get().(*Memory); ok {
		return s
	}
	return &Memory{}
}

// Put takes back s, of which nothing is in use any more: no Document that was read
// into it, no Value of a Run that has it.
func (p *Pool) Put(s *Memory) {
	clear(s.members)
	clear(s.docs)
	s.docs = s.docs[:0]
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
func (s *Memory) take(n int) []member {
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
func (s *Memory) document(raw []byte, members []member) *document {
	if s == nil {
		return &document{raw, members}
	}
	if len(s.docs) == cap(s.docs) {
		s.docs = make([]document, 0, 16) // the others stay where they are
	}
	s.docs = append(s.docs, document{raw, members})
	return &s.docs[len(s.docs)-1]
}

// document is a JSON text that was checked once and is then read where it lies.
// It is what bounded expressions work on. No object in it has a name twice, and
// names are written in one way only, so that they compare as bytes.
type document struct {
	raw     []byte   // one JSON value without space around it; nil: not made
	members []member // of raw, where it is an object
}

// size is how long the text of an object is at least.
func (d *document) size() int {
	size := 2
	for _, one := range d.members {
		size += len(one.name) + len(one.value) + 2
	}
	return size
}

// appendTo appends an object's text, made of its members.
func (d *document) appendTo(dst []byte) []byte {
	dst = append(slices.Grow(dst, d.size()), '{')
	for i, one := range d.members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, one.name...)
		dst = append(dst, ':')
		dst = append(dst, one.value...)
	}
	return append(dst, '}')
}

// member is a name of an object, with its quotes, and its value.
type member struct{ name, value []byte }

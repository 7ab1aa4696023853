package swarm

import (
	"net/netip"
	"slices"
	"sync"

	"moult/store/bundle"
)

// Caller is who asks a Server: a peer, and the address or network that it calls from, since
// identities cost nothing.
type Caller struct {
	From netip.Prefix
	Peer bundle.NodeID
}

// places are the uploads that a server works on at a time. Who waits for one gets it in the
// order of how few its address has, and then its peer. Who has waited in vain gets one of
// those who have at least two more than it: of their uploads the youngest ends, which loses
// the least. So nobody ends an upload of peers that have as few as itself, and whoever
// takes many places, however slowly it reads, has them only while nobody else wants one.
type places struct {
	total int

	mu      sync.Mutex // protects what follows
	taken   []*place   // oldest first
	waiting []*place   // longest first; none while there is room
}

type place struct {
	by    Caller
	shed  func()        // ends the upload; it must not wait, and does not come after leave
	given chan struct{} // closed once the place is taken
}

// enter asks for a place until leave is called. It is had when given is closed.
func (s *places) enter(by Caller, shed func()) *place {
	p := &place{by: by, shed: shed, given: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, p)
	s.fill()
	return p
}

// insist is for one that has waited in vain. It reports whether it has a place now.
func (s *places) insist(p *place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.taken, p) {
		return true
	}
	victim := s.victim(p.by)
	if victim == nil {
		return false
	}
	victim.shed()
	s.taken = without(s.taken, victim)
	s.give(p)
	return true
}

// leave gives a place up, or no longer waits for one. It may be called again.
func (s *places) leave(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.waiting = without(s.taken, p), without(s.waiting, p)
	s.fill()
}

func (s *places) fill() {
	for len(s.taken) < s.total && len(s.waiting) > 0 {
		s.give(slices.MinFunc(s.waiting, func(a, b *place) int {
			if from := s.from(a.by) - s.from(b.by); from != 0 {
				return from
			}
			return s.peer(a.by) - s.peer(b.by)
		}))
	}
}

func (s *places) give(p *place) {
	s.waiting = without(s.waiting, p)
	s.taken = append(s.taken, p)
	close(p.given)
}

// victim is the upload that ends for one of by's, or nil.
func (s *places) victim(by Caller) (victim *place) {
	most := [2]int{}
	for _, p := range s.taken {
		has := [2]int{s.from(p.by), s.peer(p.by)}
		if has[0] < s.from(by)+2 {
			if p.by.From != by.From || has[1] < s.peer(by)+2 {
				continue
			}
			has[0] = 0 // one address among those that have as few comes after all that have more
		}
		if slices.Compare(has[:], most[:]) >= 0 {
			victim, most = p, has // of equal ones the last, which is the youngest
		}
	}
	return victim
}

// from and peer are how many places an address, and a peer at it, have.
func (s *places) from(by Caller) int {
	return s.count(func(o Caller) bool { return o.From == by.From })
}

func (s *places) peer(by Caller) int {
	return s.count(func(o Caller) bool { return o == by })
}

func (s *places) count(of func(Caller) bool) (n int) {
	for _, p := range s.taken {
		if of(p.by) {
			n++
		}
	}
	return n
}

func without(ps []*place, p *place) []*place {
	return slices.DeleteFunc(ps, func(o *place) bool { return o == p })
}

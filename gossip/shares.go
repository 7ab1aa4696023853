package gossip

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
)

// errShed ends a connection that others need the place of.
var errShed = errors.New("it was the oldest of too many connections from where it came")

// shares bounds how many connections there are at a time, in all and from each source.
// Whoever comes is let in: of its own source the oldest goes, where that has too many,
// and else, where there are too many in all, the oldest of the source that has the most. So
// who opens many connections shuts out itself.
type shares struct {
	total, each int

	mu   sync.Mutex // protects what follows
	open []*share   // oldest first
	of   map[netip.Prefix]int
}

type share struct {
	source netip.Prefix
	shed   func()
}

func newShares(total, each int) *shares {
	return &shares{total: total, each: each, of: map[netip.Prefix]int{}}
}

// enter counts one more connection of a source, until leave is called, or shed, which must
// not wait, and may come a moment after leave.
func (s *shares) enter(source netip.Prefix, shed func()) (leave func()) {
	one := &share{source, shed}
	s.mu.Lock()
	s.of[source]++
	var victim *share
	if s.of[source] > s.each {
		victim = s.oldest(func(o *share) bool { return o.source == source })
	} else if len(s.open) >= s.total {
		most := 0
		for _, n := range s.of {
			most = max(most, n)
		}
		victim = s.oldest(func(o *share) bool { return s.of[o.source] == most })
		if victim == nil {
			victim = s.open[0] // the newcomer's source has the most only by the newcomer
		}
	}
	if victim != nil {
		s.remove(victim)
	}
	s.open = append(s.open, one)
	s.mu.Unlock()
	if victim != nil {
		victim.shed()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.remove(one)
	}
}

func (s *shares) oldest(fits func(*share) bool) *share {
	if i := slices.IndexFunc(s.open, fits); i >= 0 {
		return s.open[i]
	}
	return nil
}

// remove does nothing for one that was removed before.
func (s *shares) remove(one *share) {
	i := slices.Index(s.open, one)
	if i < 0 {
		return
	}
	s.open = slices.Delete(s.open, i, i+1)
	if s.of[one.source]--; s.of[one.source] == 0 {
		delete(s.of, one.source)
	}
}

// sourceOf is whose share a connection from an address counts to: that of the address, or
// of the network that one host has of IPv6.
func sourceOf(addr string) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := ap.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	source, _ := ip.Prefix(bits) // bits fit
	return source
}

package sim

import (
	"fmt"
	"math"

	"moult/agent/membership"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// CheckStrangers is the check that who is not enrolled decides nothing.
const CheckStrangers = "strangers"

// enrolling is who belongs to the cluster, as the operator has signed it.
type enrolling struct {
	on      bool // in this run it is signed
	evicted [nodes]bool
}

// members is what the operator has signed; nil for nothing.
func (o *operator) members() *membership.Membership { return o.set.members }

// member is what the operator enrols of a host.
func (h *host) member() membership.Member {
	return membership.Member{Node: h.id, Name: h.name, Class: h.class}
}

// enrolled reports whether a host belongs to the cluster, by what the operator has signed.
func (s *simulation) enrolled(h *host) bool {
	if s.operator.members() == nil {
		return true
	}
	_, named := s.operator.members().Member(h.id)
	return named
}

// found enrols those that were there before the simulation.
func (s *simulation) found(first *set) {
	if !s.enrolling.on {
		return
	}
	for _, h := range s.hosts[:nodes-4] {
		first.members = first.members.Enrol(h.member())
	}
	first.serial = 1
}

// enrolSome enrols a host that has come, or evicts one, which may well be alive and run
// old software for ever: the budget does not count it any more. It reports whether there
// was anything to do.
func (s *simulation) enrolSome(p *host) bool {
	h := pick(s, s.hosts)
	_, known := p.agent.node.View().Get(h.id)
	if !s.enrolled(h) && !s.enrolling.evicted[h.i] && known {
		s.signMembers(p, s.operator.members().Enrol(h.member()), "enrol "+h.name)
		return true
	}
	if s.faulty && s.enrolled(h) && s.chance(0.3) {
		s.evict(p, h)
		return true
	}
	return false
}

func (s *simulation) evict(p *host, h *host) {
	s.enrolling.evicted[h.i], s.operator.gone[h.i], s.operator.givenUp[h.i] = true, true, true
	s.stats.Evicted++
	s.signMembers(p, s.operator.members().Evict(h.id), "evict "+h.name)
	if o := s.operator.newest(); o != nil && p.agent != nil {
		if next, err := o.Skip(h.class, h.id); err == nil {
			s.sign(p, next, "skip "+h.name+", which is evicted")
		}
	}
}

func (s *simulation) signMembers(p *host, m *membership.Membership, what string) {
	next := *s.operator.set
	next.timestamp++
	next.serial++
	next.members = must(membership.Parse(must(m.Marshal()))) // as it would travel
	s.operator.set = s.publish(&next)
	s.trace("op", fmt.Sprintf("%s: metadata %d, by %s", what, next.timestamp, p.name))
	s.handOver(p)
}

// checkStrangers looks, once all have settled, for whom callers from outside are taken:
// the version that every member has reached, whatever others say that they run.
func (s *simulation) checkStrangers() {
	if !s.enrolling.on {
		return
	}
	reached := bundle.Version(math.MaxUint64)
	for _, h := range s.hosts {
		if s.enrolled(h) && !h.gone {
			reached = min(reached, max(h.truth.best.Version, 1))
		}
	}
	for _, h := range s.hosts {
		if a := h.agent; a != nil && !s.enrolling.evicted[h.i] && h.truth.state.Phase == upgrade.Current && a.route.External < min(reached, h.truth.state.Running) {
			s.fail(CheckStrangers, "%s takes callers from outside for version %d, and every member is at %d or past it", h.name, a.route.External, reached)
		}
	}
}

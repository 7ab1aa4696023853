package sim

import (
	"errors"
	"fmt"

	"moult/agent/schedule"
	"moult/store/bundle"
)

// contradicting is two operators who sign from one state at once: two sets with one number,
// each with another successor of the newest order.
type contradicting struct {
	on     bool
	halves [2]*set // nil: there are none, or they were joined
	// number is that of the metadata by which the joined order is in force.
	number int64
	// double are releases of which nodes may be down by either of two orders.
	double [maxRelease + 1]bool
	others []*schedule.Order // that the second operator has signed
}

// contradict has two operators change the newest order at once, by the views of two peers.
func (s *simulation) contradict() {
	c, op := &s.contradicting, &s.operator
	order, p, q := op.newest(), s.peer(), s.peer()
	if c.halves[0] != nil || order == nil || order.State != schedule.StateRunning || order.Joined != nil || p == nil || q == nil || p == q {
		return
	}
	one, err1 := s.someChange(order)
	two, err2 := s.someChange(order)
	if err1 != nil || err2 != nil || digestOf(one) == digestOf(two) {
		return
	}
	other := *op.set
	other.timestamp++
	other.orders[order.Release] = two
	c.halves[1] = s.publish(&other)
	c.others = append(c.others, two)
	c.double[order.Release] = true
	s.stats.Contradicted++
	s.sign(p, one, "one of two at once")
	c.halves[0] = op.set
	if p.agent != nil {
		p.agent.noteHalf(op.set)
	}
	s.trace("op2", fmt.Sprintf("the other: release %d serial %d %s, metadata %d, by %s", two.Release, two.Serial, two.State, other.timestamp, q.name))
	if q.agent != nil {
		q.receive(other.documents()...)
		q.agent.offer(c.halves[1])
	}
}

// someChange is one that an operator might make.
func (s *simulation) someChange(order *schedule.Order) (*schedule.Order, error) {
	h := pick(s, s.hosts)
	switch s.rng.IntN(3) {
	case 0:
		return order.SetBudget(h.class, 1+s.rng.IntN(4))
	case 1:
		if !s.enrolled(h) {
			return nil, errors.New("that is refused")
		}
		return order.Retry(h.class, h.id)
	default:
		return order.Start(h.class, h.id)
	}
}

func digestOf(o *schedule.Order) bundle.Digest { return bundle.Sum(must(schedule.MarshalOrder(o))) }

// join ends a contradiction, if there is one, and reports whether there was.
func (s *simulation) join(p *host) bool {
	c := &s.contradicting
	if c.halves[0] == nil {
		return false
	}
	var orders []*schedule.Order
	for _, half := range c.halves {
		orders = append(orders, half.orders[s.operator.newest().Release])
	}
	joined := must(schedule.Join(orders[0], orders[1], digestOf(orders[0]), digestOf(orders[1])))
	s.sign(p, joined, "join")
	c.halves, c.number = [2]*set{}, s.operator.set.timestamp
	return true
}

// mayResume reports whether a paused order may be resumed, by what a peer's view shows: of
// one that joins two, when nobody may be down by either.
func (s *simulation) mayResume(p *host, order *schedule.Order) bool {
	if order.Joined == nil || !order.Joined.Open {
		return true
	}
	return len(schedule.Unjoined(order, digestOf(order), s.contradicting.number, p.agent.node.View().Get)) == 0
}

// resume signs that a paused rollout goes on.
func (s *simulation) resume(p *host, order *schedule.Order) {
	if order.Joined != nil && order.Joined.Open {
		s.contradicting.double[order.Release] = false // nobody is down by the halves
	}
	s.sign(p, must(order.Resume()), "resume")
}

// unjoinedGone skips a host that is gone for good, for whose word a joined order waits.
func (s *simulation) unjoinedGone(p *host, order *schedule.Order) {
	for _, id := range schedule.Unjoined(order, digestOf(order), s.contradicting.number, p.agent.node.View().Get) {
		if h := s.hosts[s.index(id)]; h.gone || s.operator.givenUp[h.i] {
			s.operator.gone[h.i] = true
			if next, err := order.Skip(h.class, id); err == nil {
				s.sign(p, next, "skip "+h.name+", which says nothing")
				return
			}
		}
	}
}

// noteHalf notes that an agent was shown one of two sets with one number.
func (a *agent) noteHalf(x *set) {
	for i, half := range a.s.contradicting.halves {
		if half == x {
			a.halves[i] = x
		}
	}
}

// checkHalves is promise P4 where two orders contradict each other: who has seen both goes
// down by neither.
func (a *agent) checkHalves() {
	if c := &a.s.contradicting; c.halves[0] != nil && a.halves == c.halves && a.timestamp() == c.halves[0].timestamp {
		a.s.fail("P4", "%s goes down, and was shown two orders that contradict each other", a.h.name)
	}
}

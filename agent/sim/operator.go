package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// operator signs releases and rollout orders, one after the other, from what
// some peer's view shows, which may be old.
type operator struct {
	set    *set
	signed []*schedule.Order // all of them, oldest first
	// gone are the hosts that were ever skipped: the budget does not count them.
	gone [nodes]bool
	// retries counts how often a host was helped since faults stopped.
	retries [nodes]int
	givenUp [nodes]bool
	// unwell counts how often a settled host was seen unwell since then.
	unwell [nodes]int
}

// never is when metadata expire that do not, by whichever clock.
var never = epoch.Add(100 * 365 * 24 * time.Hour)

// newest is the order in force of the newest release that has one; nil for none.
func (o *operator) newest() *schedule.Order {
	for v := maxRelease; v > 0; v-- {
		if order := o.set.orders[v]; order != nil {
			return order
		}
	}
	return nil
}

// operate makes the releases and plans what the operator does.
func (s *simulation) operate() {
	first := &set{timestamp: 1, head: 1, expires: never}
	for v := bundle.Version(1); v <= maxRelease; v++ {
		s.manifests[v] = s.release(v)
		s.manifests[v].Previous = first.manifests[v-1]
		first.manifests[v] = bundle.Sum(must(json.Marshal(s.manifests[v])))
		s.contents[first.manifests[v]] = s.manifests[v]
	}
	s.found(first)
	s.operator.set = s.publish(first)
	s.spoil()
	for _, h := range s.hosts[:nodes-4] {
		h.disk.set = first
		h.disk.floor.Versions, h.disk.floor.Release = first.meta.Versions, 1
		h.receive(first.documents()...)
	}
	second := s.between(2*time.Second, 20*time.Second)
	s.after(second, s.inject)
	s.after(second+s.between(8*time.Second, 150*time.Second), s.inject)
	s.after(second, s.meddle)
}

// release writes a release: 2 changes some classes, 3 others, and so on.
func (s *simulation) release(v bundle.Version) *bundle.Manifest {
	m := &bundle.Manifest{Format: bundle.FormatVersion, Version: v, Classes: map[bundle.Class]bundle.ClassUpgrade{}}
	for i, class := range []bundle.Class{"kv", "auth", "web"} {
		if v > 1 && (int(v)+i)%3 == 0 {
			continue // 2 leaves auth as it is, 3 leaves kv, 4 leaves web
		}
		spec := bundle.ScheduleSpec{
			Strategy: bundle.StrategyRolling, MaxUnavailable: pick(s, []string{"1", "2", "3", "25%"}),
			Canary: s.rng.IntN(3), Soak: bundle.Duration(s.between(0, 15*time.Second)), FailureMax: pick(s, []int{1, 2, 100}),
		}
		switch s.rng.IntN(8) {
		case 0:
			spec.Strategy = bundle.StrategyManual
		case 1:
			spec.Strategy, spec.Canary, spec.Soak = bundle.StrategyAtOnce, 0, 0
		}
		past := bundle.Simulation{Kind: bundle.SimulateCompatible, RetireAfter: bundle.Duration(quiet)}
		cu := bundle.ClassUpgrade{From: v - 1, Schedule: spec, Past: past}
		if s.rehearsing && v > 1 && (int(v)+i)%2 == 0 {
			cu.Rehearse = &bundle.Rehearse{Timeout: bundle.MinRehearsalTime}
		}
		m.Classes[class] = cu
	}
	if s.random && v > 1 {
		for class, u := range m.Classes {
			u.Schedule.Strategy, u.Schedule.MaxUnavailable, u.Schedule.Rate = bundle.StrategyRandom, "", 600
			u.Schedule.Canary, u.Schedule.Soak = 0, 0
			m.Classes[class] = u
		}
		m.Format = m.LowestFormat()
	}
	s.waits(m)
	s.waves(m)
	s.conditions(m)
	s.reversible(m)
	return m
}

// peer returns a host with an agent, by which the operator looks and acts; nil
// if there is none.
func (s *simulation) peer() *host {
	for range nodes {
		if h := pick(s, s.hosts); h.agent != nil && h.agent.exchanged {
			return h
		}
	}
	return nil
}

// inject signs the next release with its first order. Those of whom the view
// knows are in it, and those of the order before.
func (s *simulation) inject() {
	op := &s.operator
	p := s.peer()
	if p == nil || op.set.head == maxRelease || s.contradicting.halves[0] != nil {
		s.after(time.Second, s.inject)
		return
	}
	v := op.set.head + 1
	s.author(v)
	s.measuring.well[v] = s.now + feverish
	candidates := s.candidates(p)
	order, err := schedule.Instantiate(s.manifests[v], op.set.manifests[v], op.newest(), candidates)
	if errors.Is(err, schedule.ErrRefused) {
		s.withoutZones(v)
		order, err = schedule.Instantiate(s.manifests[v], op.set.manifests[v], op.newest(), candidates)
	}
	s.sign(p, must(order, err), "inject")
}

// candidates are those of whom a peer's view knows.
func (s *simulation) candidates(p *host) (all []schedule.Candidate) {
	for r := range p.agent.node.View().All() {
		if !s.operator.members().Counts(r) {
			continue
		}
		all = append(all, schedule.Candidate{
			ID: r.Node, Class: r.Class, Version: r.Version, Left: r.Left, Reachable: s.hosts[s.index(r.Node)].agent != nil,
			Labels: r.Labels,
		})
	}
	return all
}

// sign puts an order in force and hands it to a peer.
func (s *simulation) sign(p *host, order *schedule.Order, what string) {
	op := &s.operator
	order = must(schedule.ParseOrder(must(schedule.MarshalOrder(order)))) // as it would travel
	next := *op.set
	next.timestamp++
	next.expires = never
	next.head = max(next.head, order.Release)
	next.orders[order.Release] = order
	op.set = s.publish(&next)
	op.signed = append(op.signed, order)
	s.stats.Orders++
	s.trace("op", fmt.Sprintf("%s: release %d serial %d %s, metadata %d, by %s", what, order.Release, order.Serial, order.State, next.timestamp, p.name))
	s.checkSigned(order)
	s.handOver(p)
}

// expire signs metadata that do not last: nobody has looked after them.
func (s *simulation) expire() {
	if p := s.peer(); p != nil {
		s.stats.Expired++
		s.refresh(p, epoch.Add(s.now+s.between(time.Second, 30*time.Second)))
	}
}

// refresh signs what is in force anew.
func (s *simulation) refresh(p *host, expires time.Time) {
	op := &s.operator
	next := *op.set
	next.timestamp++
	next.expires = expires
	op.set = s.publish(&next)
	s.trace("op", fmt.Sprintf("metadata %d expire at %v, by %s", next.timestamp, expires.Sub(epoch), p.name))
	s.handOver(p)
}

// signTwice is a thief of the publisher's key: the newest release gets another content,
// in metadata that come into force. The operator signs above both.
func (s *simulation) signTwice() {
	op, p := &s.operator, s.peer()
	if p == nil || op.set.head == 1 {
		return
	}
	v := op.set.head
	evil := *op.set
	evil.timestamp++
	evil.manifests[v] = bundle.Sum(fmt.Append(nil, "evil", v))
	s.contents[evil.manifests[v]] = s.manifests[v]
	s.publish(&evil)
	next := *op.set
	next.timestamp = evil.timestamp
	op.set = &next // never handed over: the next one signed is above it
	s.twice = v
	s.stats.Twice++
	s.trace("thief", fmt.Sprintf("release %d signed twice, metadata %d, by %s", v, evil.timestamp, p.name))
	p.receive(evil.documents()...)
	p.agent.tell(node.LookAgain{})
	p.agent.offer(&evil)
}

// handOver gives the newest metadata and documents to a peer.
func (s *simulation) handOver(p *host) {
	op := &s.operator
	p.receive(op.set.documents()...)
	p.agent.tell(node.LookAgain{})
	p.agent.offer(op.set)
}

// meddle lets the operator change the newest order now and then.
func (s *simulation) meddle() {
	if !s.faulty {
		return
	}
	s.after(s.between(operatorInterval/4, operatorInterval*7/4), s.meddle)
	order, p := s.operator.newest(), s.peer()
	if order == nil || p == nil {
		return
	}
	if s.contradicting.halves[0] != nil {
		if s.chance(0.4) {
			s.join(p)
		}
		return
	}
	if order.State == schedule.StatePaused && !s.mayResume(p, order) {
		return
	}
	if s.withdrawing.on && order.State == schedule.StateAborted && order.Release < maxRelease-1 && s.chance(0.7) {
		s.withdraw(p, pick(s, s.hosts).class, order.Release, true)
		return
	}
	if s.enrolling.on && s.chance(0.4) && s.enrolSome(p) {
		return
	}
	if s.turnNow(p, order) {
		return
	}
	h := pick(s, s.hosts)
	var next *schedule.Order
	var err error
	what := ""
	switch n := s.rng.IntN(20); {
	case order.State == schedule.StatePaused && n < 14:
		s.resume(p, order)
		return
	case n < 3:
		what = "pause"
		next, err = order.Pause()
	case n < 4:
		what = "abort"
		next, err = order.Abort()
	case n < 7:
		what = "budget"
		next, err = order.SetBudget(h.class, 1+s.rng.IntN(4))
	case n < 10:
		if h.agent != nil && s.chance(0.6) {
			return // skipping one that lives is the exception
		}
		what = "skip " + h.name
		next, err = order.Skip(h.class, h.id)
		s.operator.gone[h.i] = s.operator.gone[h.i] || err == nil
	case s.leaving && n < 12:
		if h.agent != nil && s.chance(0.8) {
			return // it is refused but where peers have not seen it for a while
		}
		r, _ := p.agent.node.View().Get(h.id)
		what = "forget " + h.name
		next, err = order.Forget(h.id, r.Seq)
		s.operator.gone[h.i] = s.operator.gone[h.i] || err == nil
		s.stats.Forgotten++
	case n < 14:
		what = "start " + h.name
		next, err = order.Start(h.class, h.id)
	case !s.enrolled(h):
		return // that is refused
	default:
		what = "retry " + h.name
		next, err = order.Retry(h.class, h.id)
	}
	if err == nil {
		s.sign(p, next, what)
	} else if !errors.Is(err, schedule.ErrRefused) {
		s.fail("P4", "the operator cannot %s: %v", what, err)
	}
}

// attend is an operator who looks at the status, once faults have stopped, and
// does what it says: resumes, retries, starts; injects a newer release in the
// place of one that was aborted.
func (s *simulation) attend() {
	s.after(attendInterval, s.attend)
	p := s.peer()
	if p == nil {
		return
	}
	order := s.operator.newest()
	if s.join(p) {
		return
	}
	if order != nil && order.State == schedule.StatePaused && p.agent.timestamp() >= s.operator.set.timestamp && !s.mayResume(p, order) {
		s.unjoinedGone(p, order)
		return
	}
	switch {
	case order != nil && s.blocked():
		if p.agent.timestamp() < s.operator.set.timestamp {
			s.handOver(p)
			return
		}
		s.withdraw(p, s.withdrawing.class, s.withdrawing.bad, false)
		return
	case order == nil || order.State == schedule.StateAborted:
		s.inject()
		return
	case s.attendTurns(p, order):
		return
	case order.State == schedule.StatePaused && s.mayResume(p, order):
		s.resume(p, order)
		return
	case s.operator.set.expires != never:
		s.refresh(p, never)
		return
	case p.agent.timestamp() < s.operator.set.timestamp:
		s.handOver(p) // who was handed it may have lost it
		return
	}
	for _, r := range p.agent.node.Known() {
		if h := s.hosts[s.index(r.Node)]; !s.enrolled(h) && !s.enrolling.evicted[h.i] {
			s.signMembers(p, s.operator.members().Enrol(h.member()), "enrol "+h.name)
			return
		}
	}
	for _, r := range p.agent.node.Known() {
		if what, next := s.help(order, r); next != nil {
			s.sign(p, next, what)
			return // one at a time: the next look shows what came of it
		}
	}
}

// help returns the change that brings a node on, by what its record says.
func (s *simulation) help(order *schedule.Order, r view.Record) (what string, next *schedule.Order) {
	op, i := &s.operator, s.index(r.Node)
	if op.givenUp[i] {
		if s.enrolling.evicted[i] && order.Attempts(r.Class, r.Node) > 0 {
			next, _ = order.Skip(r.Class, r.Node) // its peer was gone before
			return "skip " + s.hosts[i].name, next
		}
		return "", nil
	}
	attempts := order.Attempts(r.Class, r.Node)
	used := attempts == 0 || (r.Ended.Release == order.Release && r.Ended.Count >= attempts)
	h := s.hosts[i]
	if order.Turn > 0 {
		used = attempts == 0 || r.Turned.Release == order.Release && r.Turned.Turn == order.Turn && !r.Turned.Done && r.Turned.Ended >= attempts
	}
	if r.Turned.Done && order.Back() && attempts > 0 {
		return "", nil
	}
	if r.Stands() >= order.Release && !order.Back() {
		failed := r.Health.Failed
		used = attempts > 0 && failed.Release == order.Release && failed.Count >= attempts
		if r.Health.Unwell() {
			op.unwell[i]++
		}
		if op.unwell[i] >= maxUnwell {
			op.retries[i], used = maxRetries, true
		}
		if !used {
			return "", nil
		}
	}
	if h.gone || r.Phase == "" { // or nothing is known of it but that it is waited for
		if order.Attempts(r.Class, r.Node) == 0 {
			return "", nil // nobody waits for it
		}
		op.gone[i] = true
		next, _ = order.Skip(r.Class, r.Node)
		return "skip " + h.name, next
	}
	if used && op.retries[i] >= maxRetries {
		op.givenUp[i], op.gone[i] = true, true
		next, _ = order.Skip(r.Class, r.Node) // refused where it has no place
		return "skip " + h.name, next
	}
	if used {
		op.retries[i]++
		return "retry " + h.name, must(order.Retry(r.Class, r.Node))
	}
	if order.Classes[r.Class].Strategy == bundle.StrategyManual {
		next, _ = order.Start(r.Class, r.Node) // refused where it has been started
		return "start " + h.name, next
	}
	return "", nil
}

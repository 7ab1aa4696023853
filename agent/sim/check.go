package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// truth is what the checks know of a host, whatever its disk and its agent
// believe.
type truth struct {
	state upgrade.State // as last saved
	acked int           // writes that callers were promised
	last  view.Record   // as last signed
	best  view.Record   // the most that it ever promised
	// old is the slot that the attempt under way started from, and its content
	// when the software had stopped; 0: none.
	old     bundle.Version
	content content
	// began is by which manifests the host went down last, of each release on its way.
	began [maxRelease + 1]bundle.Digest
	// settled is when the host was first at a release or a later one, and well for how
	// long its software has been well since then, without a break, at most.
	settled, well [maxRelease + 1]time.Duration
	rehearsed     rehearsed
	// details are those of each version that callers were promised.
	details [maxRelease + 1]int
	// admitted is the newest release whose software was ever open to callers.
	admitted bundle.Version
	// calm is for how long all has been so that the host might finalize a release by its own word.
	calm calm
	// finalized is the newest release of which the software was told that it is final.
	finalized bundle.Version
}

// rehearsed is what came of the host's last rehearsal, by the step of its action.
type rehearsed struct {
	step       uint64
	ended, fit bool
}

// checkAll looks at the whole world, after every event.
func (s *simulation) checkAll() {
	s.checkBudget()
	for _, h := range s.hosts {
		h.checkSlots()
	}
}

// checkBudget is promise P4. The bound is that of the proof in package
// schedule: the greatest budget that any serial of the newest order in use has
// had, not counting nodes that were ever skipped, and none where that order is
// at once. A node that has never served is missed by nobody.
func (s *simulation) checkBudget() {
	var down [nodes]int
	var newest [nodes]bundle.Version
	classes := [...]bundle.Class{"kv", "auth", "web"}
	for _, h := range s.hosts {
		st := &h.truth.state
		if !st.Phase.Down() || !st.Served || s.operator.gone[h.i] {
			continue
		}
		for c := range classes {
			if classes[c] == h.class {
				down[c]++
				newest[c] = max(newest[c], st.Order())
			}
		}
	}
	for c, class := range classes {
		if down[c] < 2 {
			continue // a budget is at least 1
		}
		if k, bounded := s.budget(class, newest[c]); bounded && down[c] > k {
			s.fail("P4", "%d nodes of class %s are down, and the budget of release %d was at most %d", down[c], class, newest[c], k)
		}
		s.checkSpread(class, newest[c])
	}
}

func (s *simulation) budget(class bundle.Class, release bundle.Version) (k int, bounded bool) {
	bounded = true
	for _, o := range s.operator.signed {
		if c := o.Classes[class]; o.Release == release {
			k = max(k, c.MaxUnavailable)
			bounded = bounded && c.Bounds()
		}
	}
	for _, o := range s.contradicting.others {
		if o.Release == release {
			k = max(k, o.Classes[class].MaxUnavailable)
		}
	}
	if s.contradicting.double[release] {
		k *= 2 // each half may have its own
	}
	return k, bounded
}

// checkSlots is promises P5 and P6.
func (h *host) checkSlots() {
	t, d := &h.truth, &h.disk
	if t.old != 0 && d.slots[t.old] != t.content {
		h.s.fail("P5", "%s: the old state was %+v when the software stopped and is %+v before the new one has settled", h.name, t.content, d.slots[t.old])
	}
	if !h.open() {
		return
	}
	v := h.soft.version
	switch c := d.slots[v]; {
	case !c.whole || c.form != v:
		h.s.fail("P5", "%s serves version %d from a slot that is %+v", h.name, v, c)
	case c.writes != t.acked:
		h.s.fail("P6", "%s promised %d writes, and version %d serves a state with %d", h.name, t.acked, v, c.writes)
	case v < t.admitted:
		h.s.fail("P6", "%s had version %d open to callers, and is back at %d", h.name, t.admitted, v)
	}
	h.checkDetails(d.slots[v])
	t.admitted = max(t.admitted, v)
}

// noteWell notes how long the software has been well: something is about to end that.
func (h *host) noteWell() {
	if !h.soft.running || h.soft.fails {
		return
	}
	t := &h.truth
	for v := range t.well {
		if bundle.Version(v) <= t.state.Version {
			t.well[v] = max(t.well[v], h.s.now-max(h.soft.since, t.settled[v]))
		}
	}
}

// noteSaved notes a state that has just become durable.
func (a *agent) noteSaved(s upgrade.State) {
	a.h.noteWell() // what counts as settled may change
	t := &a.h.truth
	before := t.state.Phase
	if s.Phase.Down() && !before.Down() {
		t.began = [maxRelease + 1]bundle.Digest{}
		for _, v := range s.Path {
			t.began[v] = a.by(v)
		}
	}
	for v := t.state.Version + 1; v <= s.Version; v++ {
		t.settled[v] = a.s.now
	}
	if s.FailedRelease != t.state.FailedRelease || s.FailedCount != t.state.FailedCount {
		a.s.stats.SoaksFailed++
	}
	t.state = s
	if s.Phase == upgrade.Probing && s.Reverts != 0 {
		if before != upgrade.Probing {
			a.s.stats.TakenBack++
		}
		t.admitted = s.Running // by the operator's word
	}
	if s.Phase == upgrade.Probing && before != upgrade.Probing {
		a.h.checkWithdrawn()
	}
	switch s.Phase {
	case upgrade.Transforming:
		if before == upgrade.Draining && s.Running != 0 {
			t.old, t.content = s.Running, a.h.disk.slots[s.Running]
		}
	case upgrade.Starting, upgrade.Probing, upgrade.RollingBack:
	default:
		t.old = 0
	}
	switch {
	case s.Phase == upgrade.Settled:
		a.s.stats.Settled++
	case s.Phase == upgrade.Held && before != upgrade.Held:
		a.s.stats.Held++
	case s.Phase == upgrade.RollingBack:
		a.s.stats.RolledBack++
	}
}

// checkSigned holds the operator to the rules that the proof rests on.
func (s *simulation) checkSigned(next *schedule.Order) {
	var err error
	for _, o := range s.operator.signed[:len(s.operator.signed)-1] {
		if o.Release == next.Release {
			err = errors.Join(err, schedule.Successor(o, next))
		}
	}
	if err != nil {
		s.fail("P4", "the operator signed what may not follow: %v", err)
	}
}

// checkSettled is the liveness check: once faults have stopped, every node
// settles at the newest release, but those that the operator has given up and
// those that never work; and all views become equal.
func (s *simulation) checkSettled() {
	left := s.unsettled()
	switch {
	case len(left) == 0 && s.twice == 0 && !s.turning():
		s.checkStrangers()
		s.over = true
	case s.twice != 0 && (len(left) == 0 || s.now > chaos+brief):
		s.over = true // who has reached it by the thief's content goes no further
	case s.now > chaos+s.patience():
		s.fail(CheckLiveness, "%v after faults stopped: %s", s.patience(), strings.Join(left, "; "))
	default:
		s.after(tickInterval, s.checkSettled)
	}
}

// unsettled tells who has not settled, and why.
func (s *simulation) unsettled() (left []string) {
	order := s.operator.newest()
	if order == nil || order.State != schedule.StateRunning {
		return []string{"the newest rollout is not running"}
	}
	var view uint64
	for _, h := range s.hosts {
		if h.gone {
			continue
		}
		if h.agent == nil {
			left = append(left, h.name+" has no agent")
			continue
		}
		st, excused := h.truth.state, s.operator.givenUp[h.i] || h.chronic() || h.stuck()
		if (!h.there(order) || st.Phase != upgrade.Current || !h.open()) && !excused {
			left = append(left, fmt.Sprintf("%s is %s at version %d, goal %d: %s%s", h.name, st.Phase, st.Version, st.Goal, st.Reason, h.agent.node.Waits().Text))
		}
		if hash := hashOf(h.agent.node.View().Buckets()); view == 0 {
			view = hash
		} else if hash != view {
			left = append(left, h.name+" has another view")
		}
	}
	return left
}

// hashOf is FNV-1a by words: views are compared after every merge.
func hashOf(words []uint64) uint64 {
	h := uint64(14695981039346656037)
	for _, w := range words {
		h = (h ^ w) * 1099511628211
		h ^= h >> 29
	}
	return h
}

package sim

import (
	"errors"
	"reflect"
	"slices"
	"time"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// checkRestored is promise P7: the node goes on from exactly what was saved, and
// wants the same things however often it is made anew.
func (a *agent) checkRestored() {
	got := a.node.State()
	if a.h.disk.journal == nil || a.h.disk.doubt {
		a.noteSaved(got) // what the slots and the floor say is durable
	} else if !reflect.DeepEqual(got, a.h.truth.state) {
		a.s.fail("P7", "%s had saved %+v and goes on from %+v", a.h.name, a.h.truth.state, got)
	}
	m := a.h.memory()
	_ = m.Seek(a.h.adopt != 0) // restore has asked
	again := must(node.New(a.config(), m, a.clock()))
	if first, second := a.node.Ready(), again.Ready(); a.h.disk.journal != nil && !reflect.DeepEqual(first, second) {
		a.s.fail("P7", "%s wants %+v, and made anew %+v", a.h.name, first, second)
	}
}

// checkStarted is promise P7: what is done was saved before.
func (a *agent) checkStarted() {
	s := a.node.State()
	if !reflect.DeepEqual(s, a.h.truth.state) {
		a.s.fail("P7", "%s acts on phase %q, and phase %q is saved", a.h.name, s.Phase, a.h.truth.state.Phase)
	}
}

// published checks a record that its node has just signed: promises P7 (it is
// durable) and P8 (none of what others decide by is ever taken back).
func (a *agent) published(r view.Record, signed view.Signed) {
	t := &a.h.truth
	s := t.state
	failed := view.Ended{Release: s.FailedRelease, Count: s.FailedCount}
	if r.Version != s.Claims() || r.Obeys != s.Obeys || r.Ended != (view.Ended{Release: s.EndedRelease, Count: s.EndedCount}) || r.Health.Soaked != s.Soaked || r.Health.Failed != failed || r.Rehearsed != s.Rehearsed || r.Turned != s.Turned {
		a.s.fail("P7", "%s says version %d, obeys %d, ended %v, health %+v, and this is saved: %+v", a.h.name, r.Version, r.Obeys, r.Ended, r.Health, s)
	}
	if a.h.forgot {
		a.s.twoTongued = a.s.twoTongued || r.Seq <= t.last.Seq
		t.last = view.Record{}
	}
	if r.Seq <= t.last.Seq {
		a.s.fail("P8", "%s signs number %d after number %d", a.h.name, r.Seq, t.last.Seq)
	}
	if r.Version < t.last.Version || r.Obeys < t.last.Obeys || endedBefore(r.Ended, t.last.Ended) || r.Turned.Max(t.last.Turned) != r.Turned {
		a.s.fail("P8", "%s takes back what it said: %+v after %+v", a.h.name, r, t.last)
	}
	t.last = r
	a.s.written[signed] = word{a.h.i, r.Seq}
	t.best.Node, t.best.Phase = r.Node, r.Phase
	t.best.Version, t.best.Obeys = max(t.best.Version, r.Version), max(t.best.Obeys, r.Obeys)
	t.best.Turned = t.best.Turned.Max(r.Turned)
	if endedBefore(t.best.Ended, r.Ended) {
		t.best.Ended = r.Ended
	}
}

func endedBefore(a, b view.Ended) bool {
	return a.Release < b.Release || (a.Release == b.Release && a.Count < b.Count)
}

// note remembers which records a node is given, and reports whether all are genuine.
func (a *agent) note(records []view.Signed) (genuine bool) {
	genuine = true
	for _, r := range records {
		w, ok := a.s.written[r]
		genuine = genuine && ok
		if ok {
			a.seen[w.host] = max(a.seen[w.host], w.seq)
		}
	}
	return genuine
}

// checkMerged is promise P8: a view has the newest of the records that it was
// given, by the numbers of their nodes, and nothing that a node never signed;
// and views that were given the same are equal.
func (a *agent) checkMerged(records []view.Signed, changed []bundle.NodeID, err error) {
	genuine, v := a.note(records), a.node.View()
	if a.s.twoTongued {
		return // two records of one number: a view may have either
	}
	if err != nil && (genuine || errors.Is(err, view.ErrEquivocation)) {
		a.s.fail("P8", "%s refuses records: %v", a.h.name, err)
	}
	for _, r := range records {
		w, ok := a.s.written[r]
		if !ok {
			continue
		}
		if have, _ := v.Get(a.s.hosts[w.host].id); have.Seq != a.counts(w.host) {
			a.s.fail("P8", "%s was given record %d of %s and has record %d", a.h.name, a.counts(w.host), a.s.hosts[w.host].name, have.Seq)
		}
	}
	if len(changed) == 0 {
		return
	}
	for _, id := range changed {
		if r, _ := v.Signed(id); a.s.written[r] == (word{}) {
			a.s.fail("P8", "%s took over a record that node %s never signed", a.h.name, id.Short())
		}
	}
	var count [nodes]uint64
	for i := range count {
		count[i] = a.counts(i)
	}
	given, got := hashOf(count[:]), hashOf(v.Buckets())
	if before, ok := a.s.views[given]; ok && before != got {
		a.s.fail("P8", "%s has another view than a peer that was given the same records", a.h.name)
	}
	a.s.views[given] = got
}

// counts is the number of the newest record that the view was given of a host, but what
// the newest order in force here forgets.
func (a *agent) counts(host int) uint64 {
	if n := a.seen[host]; n > a.forgotten(host) {
		return n
	}
	return 0
}

// forgotten is up to which number the newest order in force here forgets a host.
func (a *agent) forgotten(host int) uint64 {
	for _, f := range a.forgets() {
		if f.Node == a.s.hosts[host].id {
			return f.UpTo
		}
	}
	return 0
}

// forgets is what the newest order in force here forgets, as it was signed.
func (a *agent) forgets() []schedule.Forgotten {
	for v := bundle.Version(maxRelease); v > 0; v-- {
		if a.node.Orders()[v] != nil {
			return a.s.orders[a.node.BoundOrders()[v]].Forgotten
		}
	}
	return nil
}

// checkForgotten looks whether a node has what the newest order forgets.
func (a *agent) checkForgotten() {
	for _, f := range a.forgets() {
		if r, ok := a.node.View().Get(f.Node); ok && r.Seq <= f.UpTo {
			a.s.fail("P8", "%s has record %d of %s, and obeys an order that forgets it up to %d", a.h.name, r.Seq, a.s.hosts[a.s.index(f.Node)].name, f.UpTo)
		}
	}
}

// checkSet is promise P2. After a lost database older metadata may come first;
// checkDecided sees to it that they are not acted on.
func (a *agent) checkSet(next *set) {
	if have := a.h.disk.set; have != nil && next.timestamp < have.timestamp {
		a.s.fail("P2", "%s goes back from metadata %d to %d", a.h.name, have.timestamp, next.timestamp)
	}
}

// checkDecided looks at a decision that has just become durable. It is promise P2
// for a node that takes a new goal, and P9 for one that gives it up: it must have
// seen that the rollout was aborted or turned, or that a release was signed twice.
func (a *agent) checkDecided(before, s upgrade.State) {
	if s.Goal != 0 && s.Goal != before.Goal {
		if have := a.h.disk.set; have == nil || have.timestamp < a.h.disk.floor.Timestamp {
			a.s.fail("P2", "%s acts on metadata older than number %d, which it had seen", a.h.name, a.h.disk.floor.Timestamp)
		}
	}
	if before.Phase.Ahead() && s.Phase == upgrade.Current {
		o := a.node.Orders()[before.Order()]
		aborted := o != nil && (o.State == schedule.StateAborted || o.Back()) || s.Turned != before.Turned
		if !aborted && !a.sawConflict() && !a.sawWithdrawn(before) && before.Order() >= s.Obeys {
			a.s.fail("P9", "%s gives up release %d, of whose rollout it has not seen that it was aborted or turned", a.h.name, before.Goal)
		}
	}
	if s.Phase == upgrade.Draining && before.Phase != upgrade.Draining {
		a.checkFit(s)
	}
	if before.Phase == upgrade.Waiting && s.Phase == upgrade.Draining {
		a.s.stats.WentDown++
		a.checkGo(s.Order())
	}
}

// checkFit is promise P13: a node that has served goes down for what wants to be rehearsed
// only after that went well, here, on what it means by the releases of its path; and not
// where rehearsals have failed, for all that it knows, on as many as may fail.
func (a *agent) checkFit(s upgrade.State) {
	if !s.Served || s.Reverts != 0 || !a.h.rehearses(s.Goal) {
		return
	}
	if t := a.h.truth.rehearsed; !t.ended || !t.fit {
		a.s.fail("P13", "%s goes down for release %d, whose rehearsal has not gone well there: %+v", a.h.name, s.Goal, t)
	}
	o := a.node.Orders()[s.Goal]
	if o == nil {
		return
	}
	c, unfit := o.Classes[a.h.class], 0
	for i, id := range c.Roster {
		if slices.Contains(c.Roster[:i], id) {
			continue // another place of it
		}
		r, ok := a.node.View().Get(id)
		failed := usedUp(o, r, o.Attempts(a.h.class, id))
		ended := r.Version >= s.Goal || r.Obeys > s.Goal || r.Rehearsed.Release > s.Goal || failed ||
			r.Rehearsed.Release == s.Goal && r.Rehearsed.Outcome != view.RehearsalFailed || !a.s.hosts[a.s.index(id)].rehearses(s.Goal) ||
			r.Target == s.Goal && (r.Phase == view.Waiting || r.Phase.Down()) // it had nothing to rehearse when it said so
		if !r.Left && !ended && o.Attempts(a.h.class, id) > 0 && a.node.Alive(id) && s.Rehearsed.Release == s.Goal && id != a.h.id {
			a.s.fail("P13", "%s goes down for release %d before %s, which is there, has rehearsed it", a.h.name, s.Goal, a.s.hosts[a.s.index(id)].name)
		}
		if ok && id != a.h.id && r.Held && r.Version < s.Goal && r.Rehearsed.Release == s.Goal && r.Rehearsed.Outcome == view.RehearsalFailed && o.Attempts(a.h.class, id) > 0 && usedUp(o, r, o.Attempts(a.h.class, id)) {
			unfit++
		}
	}
	if c.FailureMax > 0 && unfit >= c.FailureMax {
		a.s.fail("P13", "%s goes down for release %d, which has failed in its rehearsal on %d nodes, and %d may fail", a.h.name, s.Goal, unfit, c.FailureMax)
	}
}

// usedUp reports whether all attempts of a node have ended, in the present turn of an order.
func usedUp(o *schedule.Order, r view.Record, attempts int) bool {
	if o.Turn > 0 {
		return r.Turned.Release == o.Release && r.Turned.Turn == o.Turn && r.Turned.Ended >= attempts
	}
	return r.Ended.Release == o.Release && r.Ended.Count >= attempts
}

// rehearses reports whether what the host works towards is that release, and on its way
// there is something to rehearse.
func (h *host) rehearses(goal bundle.Version) bool {
	s := h.truth.state
	return s.Goal != goal || slices.ContainsFunc(s.Path, func(v bundle.Version) bool {
		m := h.s.contents[s.Manifests[v].Digest]
		return m != nil && m.Classes[h.class].Rehearse != nil
	})
}

// checkRehearsing asks what would be decided if all that rehearse only waited.
func (a *agent) checkRehearsing() {
	s := a.node.State()
	if !a.s.rehearsing || s.Phase != upgrade.Waiting {
		return
	}
	in := a.node.Asks()
	if in.Order == nil {
		return
	}
	rehearse := slices.DeleteFunc(slices.Clone(in.Order.Classes[in.Class].Roster), func(id bundle.NodeID) bool {
		r, _ := in.Lookup(id)
		return r.Phase != upgrade.Rehearsing
	})
	if len(rehearse) == 0 {
		return
	}
	in.Reachable = nil // who waits for what others find says so, and means that only
	as := a.decide(in)
	would := a.decideIf(in, func(r *view.Record) bool { r.Phase = upgrade.Waiting; return true }, rehearse...)
	if would.Go != as.Go || would.Reason.Code != as.Reason.Code {
		a.s.fail(CheckRehearsing, "%s is told %q, and if those that rehearse only waited %q", a.h.name, as.Reason.Text, would.Reason.Text)
	}
}

// checkTurn is that few nodes of a class rehearse at once: this one begins, and of those
// before it in the order, which are there, fewer have yet to rehearse.
func (a *agent) checkTurn() {
	s := a.node.State()
	o := a.node.Orders()[s.Goal]
	if o == nil {
		a.s.fail(CheckTurn, "%s rehearses release %d without an order", a.h.name, s.Goal)
		return
	}
	c := o.Classes[a.h.class]
	var before, all []bundle.NodeID
	for _, id := range c.Roster {
		if slices.Contains(all, id) {
			continue // another place of it
		}
		all = append(all, id)
		r, _ := a.node.View().Get(id)
		if slices.Contains(all, a.h.id) || o.Attempts(a.h.class, id) == 0 || !a.node.Alive(id) || r.Left || r.Phase != upgrade.Rehearsing || r.Target != s.Goal {
			continue
		}
		if r.Ended.Release == s.Goal && r.Ended.Count >= o.Attempts(a.h.class, id) {
			continue // it has failed, and tries again by a later order than is in force here
		}
		before = append(before, id)
	}
	if few := max(1, c.MaxUnavailable, (len(all)+3)/4); c.Strategy != bundle.StrategyAtOnce && len(before) >= few {
		a.s.fail(CheckTurn, "%s rehearses release %d while %d of its class do, which come before it, and %d may", a.h.name, s.Goal, len(before), few)
	}
}

// checkHeeds is that nobody rehearses on who has the operator's word that the rollout is
// paused.
func (a *agent) checkHeeds() {
	s := a.node.State()
	if a.rehearses == 0 || a.rehearses != a.action || s.Phase != upgrade.Rehearsing || a.node.Refusing() || a.node.OrderPending(s.Goal) || a.node.BelowFloor() {
		return
	}
	if o := a.node.Orders()[s.Goal]; o != nil && o.State != schedule.StateRunning && o.Attempts(a.h.class, a.h.id) > 0 {
		a.s.fail(CheckTurn, "%s rehearses release %d on, whose rollout is %s", a.h.name, s.Goal, o.State)
	}
}

// sawWithdrawn reports whether an order in force here withdraws what was on the way.
func (a *agent) sawWithdrawn(s upgrade.State) bool {
	for _, o := range a.node.Orders() {
		if slices.ContainsFunc(s.Path, func(v bundle.Version) bool { return o.Withdrawn.Has(a.h.class, v) }) {
			return true
		}
	}
	return false
}

// sawConflict reports whether this host knows of a release that was signed twice.
func (a *agent) sawConflict() bool {
	return a.h.disk.frozen != [maxRelease + 1]bundle.Digest{}
}

// decide asks the schedule, as the node does.
func (a *agent) decide(in schedule.Input) schedule.Decision {
	if f := a.s.plant.Rules.Decide; f != nil {
		return f(in)
	}
	return schedule.Decide(in)
}

// decideIf asks the schedule what it would decide if some nodes had said something else, or nothing
// (false), by the tally that the node keeps: TestTallyIsKept shows that it is as if counted anew.
func (a *agent) decideIf(in schedule.Input, say func(*view.Record) bool, nodes ...bundle.NodeID) schedule.Decision {
	lookup := in.Lookup
	in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
		r, known := lookup(id)
		if slices.Contains(nodes, id) {
			known = say(&r)
		}
		return r, known
	}
	in.Tally.NoteAll(nodes, in.Lookup)
	defer in.Tally.NoteAll(nodes, lookup)
	return a.decide(in)
}

// checkWaiting is promise P9: where the answer is to wait, it is also to wait
// for an agent that does not have one of the records. That enough nodes have
// failed, that one is not well, is final, or has yet to rehearse, is news that may be missing: it only ever adds a
// reason to wait.
func (a *agent) checkWaiting() {
	s := a.node.State()
	if s.Phase != upgrade.Waiting {
		return
	}
	in := a.node.Asks()
	d := a.decide(in)
	switch d.Reason.Code {
	case schedule.CodeWhen:
		a.s.stats.Awaited++
	case schedule.CodeHoldIf:
		a.s.stats.HeldBack++
	}
	if d.Go || in.Order == nil || slices.Contains([]string{schedule.CodeStopped, schedule.CodeUnwell, schedule.CodeFinal}, d.Reason.Code) || d.Reason.Code == schedule.CodeRehearsals {
		return
	}
	roster := in.Order.Classes[in.Class].Roster
	if len(roster) == 0 {
		return
	}
	missing := roster[a.s.checkRNG.IntN(len(roster))]
	if missing == in.Self {
		return
	}
	if a.decideIf(in, func(r *view.Record) bool { *r = view.Record{}; return false }, missing).Go {
		a.s.fail("P9", "%s waits (%s), and would go if it knew nothing of %s", a.h.name, d.Reason.Text, a.s.hosts[a.s.index(missing)].name)
	}
}

// checkGo looks at a node that goes down. Promise P3: for no release that it knows was
// signed twice; a newer one says which content it goes on from. Promise P4: it goes by the newest order
// that it was ever shown, also where the disk had no room for that. Promise P9: it
// has heard from a peer since its start, and everything that any node has ever
// promised would only have confirmed it.
func (a *agent) checkGo(release bundle.Version) {
	a.checkHalves()
	if !a.exchanged {
		a.s.fail("P9", "%s goes down before its first exchange with a peer", a.h.name)
	}
	if v := a.s.twice; v == release && len(a.contents) == 2 {
		a.s.fail("P3", "%s goes down for release %d, and was shown that it was signed twice", a.h.name, v)
	}
	if o := a.shown.orders[release]; o != nil && o.State != schedule.StateRunning {
		a.s.fail("P4", "%s goes down for release %d, and was shown that its rollout is %s", a.h.name, release, o.State)
	}
	in := a.node.Input(release)
	if a.clock().After(a.shown.expires) && !in.Order.Back() { // which would keep it at what is bad
		a.s.fail("P1", "%s goes down by metadata that have expired", a.h.name)
	}
	if in.Order.Turn == 0 { // else it was settled, and well, before
		a.checkSoaked(in.Order.Classes[a.h.class], release)
		a.checkWaves(in.Order.Classes[a.h.class], release)
		a.checkWaits(in.Order)
		a.checkConditions(in.Order)
	}
	lookup := in.Lookup
	in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
		if id == a.h.id {
			return lookup(id)
		}
		best := a.s.hosts[a.s.index(id)].truth.best
		return best, best.Node == id
	}
	// How long others have been settled it can only know of those it saw.
	if d := a.decide(in); !d.Go && d.Reason.Code != schedule.CodeStopped && d.Reason.Code != schedule.CodeSoak && d.Reason.Code != schedule.CodeAfter && d.Reason.Code != schedule.CodeRehearsals {
		a.s.fail("P9", "%s goes down, and would not if it knew all: %s", a.h.name, d.Reason.Text)
	}
}

// by is the manifest by which the driver transforms to a version, and starts it.
func (a *agent) by(v bundle.Version) bundle.Digest {
	if have := a.set(); a.s.plant.ByNumber && have != nil && v <= have.head {
		return have.manifests[v]
	}
	return a.node.ManifestDigests()[v]
}

// checkContent is promise P3: who has gone down goes on by the content that it began with,
// whatever is signed since.
func (a *agent) checkContent(v bundle.Version, by bundle.Digest) {
	if want := a.h.truth.began[v]; by != want && !want.IsZero() {
		a.s.fail("P3", "%s makes the state of version %d by manifest %s, and went down by %s", a.h.name, v, by.Short(), want.Short())
	}
}

// checkSoftware is promise P3: what is started is of the content that its state was made
// by. Who has lost its database knows the number only.
func (a *agent) checkSoftware(v bundle.Version) {
	made, by := a.h.disk.slots[v].by, a.by(v)
	if _, bound := a.node.State().Bound()[v]; bound && by != made && !made.IsZero() && !by.IsZero() {
		a.s.fail("P3", "%s starts version %d of manifest %s on a state that was made by %s", a.h.name, v, by.Short(), made.Short())
	}
}

// checkRetired looks at objects that are given up: everybody who has a place in the
// order of a release from there on has reached what is still answered.
func (a *agent) checkRetired(oldest bundle.Version) {
	if oldest == 0 {
		return
	}
	a.s.stats.Retired++
	a.h.trace("callers of versions before %d are not answered any more", oldest)
	for r := range a.node.View().All() {
		if set := a.set(); set != nil && !set.members.Counts(r) {
			continue // nobody whom it has to heed
		}
		if r.Version < oldest && !r.Left && !a.s.operator.gone[a.s.index(r.Node)] && !a.skips(r) {
			a.s.fail(CheckAnswered, "%s does not answer callers of versions before %d any more, and knows that %s is at %d", a.h.name, oldest, r.Name, r.Version)
		}
	}
	for _, o := range a.s.operator.signed {
		if o.Release >= oldest && a.s.behind(o, oldest) == "" {
			return
		}
	}
	a.s.fail(CheckAnswered, "%s does not answer callers of versions before %d any more, and no order from there on has come to its end", a.h.name, oldest)
}

// skips reports whether the newest order in force here that names a node skips it, as the
// first of a release does with who had left. That it is alive all the same the ring would
// tell, which is not simulated.
func (a *agent) skips(r view.Record) bool {
	for v := bundle.Version(maxRelease); v > 0; v-- {
		if o := a.node.Orders()[v]; o != nil && o.Names(r.Class, r.Node) {
			return o.Attempts(r.Class, r.Node) == 0
		}
	}
	return false
}

// behind names somebody with a place in an order who has not reached a version; "" for
// nobody.
func (s *simulation) behind(o *schedule.Order, v bundle.Version) string {
	for _, class := range []bundle.Class{"kv", "auth", "web"} {
		c := o.Classes[class]
		for i, id := range c.Roster {
			if h := s.hosts[s.index(id)]; h.truth.best.Version < v && !slices.Contains(c.Skipped, i) {
				return h.name
			}
		}
	}
	return ""
}

// checkRoute looks at whom a node answers: callers of its own version, of every newer
// one that it knows, and of every older one that it has not retired. A node that stays at
// a withdrawn release answers none of a newer one, whose objects go around that.
func (a *agent) checkRoute() {
	r := a.route
	if r.Native == 0 {
		return
	}
	known := func(v bundle.Version) bool { return a.node.Manifests()[v] != nil }
	answered := func(v bundle.Version) bool { return r.Oldest <= v && v <= r.Newest }
	stays := false
	for _, o := range a.node.Orders() {
		stays = stays || o.Withdrawn.Has(a.h.class, r.Native)
	}
	newer := known(r.Native+1) && !a.node.Conflicted(r.Native+1) && !stays
	if !answered(r.Native) || newer && !answered(r.Native+1) ||
		r.Native > max(1, a.h.disk.answering.Oldest) && known(r.Native) && !answered(r.Native-1) {
		a.s.fail(CheckAnswered, "%s runs version %d and answers callers of %d to %d", a.h.name, r.Native, r.Oldest, r.Newest)
	}
	if r.External < a.h.disk.answering.External {
		a.s.fail(CheckAnswered, "%s takes callers from outside for version %d again, after %d", a.h.name, r.External, a.h.disk.answering.External)
	}
}

// checkSoaked looks at what others have settled at when a node goes down by an order:
// no canary is known to be unwell, nor as many others as may fail, and the canaries have
// been well for their soak, whatever anybody believes. One that has left is not waited
// for; one whose disk has forgotten what it said is not counted.
func (a *agent) checkSoaked(c schedule.ClassOrder, release bundle.Version) {
	var ranks []int
	if c.Strategy == bundle.StrategyManual {
		ranks = c.Started
	} else {
		for i := range c.Roster {
			ranks = append(ranks, i)
		}
	}
	canaries := ranks[:min(c.Canaries(), len(ranks))]
	unwell := map[bundle.NodeID]bool{}
	for i, id := range c.Roster {
		h, r := a.s.hosts[a.s.index(id)], view.Record{}
		if r, _ = a.node.View().Get(id); slices.Contains(c.Skipped, i) || r.Version < release {
			continue
		}
		if r.Health.Unwell() && !r.Left && c.Strategy != bundle.StrategyAtOnce {
			unwell[id] = true
		}
		if unwell[id] && (slices.Contains(canaries, i) || len(unwell) >= c.FailureMax) {
			a.s.fail(CheckUnwell, "%s goes down for release %d, and knows that %s, which is there, is %s", a.h.name, release, h.name, r.Health.State)
		}
		if slices.Contains(canaries, i) && !r.Left && !h.forgot && !slices.Contains(canaries, slices.Index(c.Roster, a.h.id)) && r.Health.Failed.Release != release && !h.soaked(release) {
			a.s.fail(CheckSoak, "%s goes down for release %d, and %s has been well for %v", a.h.name, release, h.name, h.truth.well[release])
		}
	}
}

// soaked reports whether the software has been well for the whole soak of a release, or
// of a later one at which the host has settled.
func (h *host) soaked(release bundle.Version) bool {
	h.noteWell()
	for v := release; v <= h.truth.state.Version; v++ {
		if o := h.s.operator.set.orders[v]; o != nil {
			if c := o.Classes[h.class]; h.truth.well[v] >= time.Duration(c.SoakOf(h.id)) {
				return true
			}
		}
	}
	return false
}

package sim

import (
	"slices"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Plant is where a test can put a fault, to see that it matters: in what goes into
// a node, in what is done with what comes out, or in the world. A nil field is no
// fault.
type Plant struct {
	// Rules are broken rules of package schedule.
	Rules node.Rules
	// Memory is what a restarted node is told that the disk says.
	Memory func(node.Memory) node.Memory
	// Event is what a node is told instead of an event; nil: nothing.
	Event func(*node.Node, node.Event) node.Event
	// Merge is what a node is given of some records.
	Merge func([]view.Signed) []view.Signed
	// CarryOut is what is done with a Ready, in order.
	CarryOut []Stage
	// Early tells what a state says before that is durable.
	Early bool
	// Publish is how a new slot gets its name, in order.
	Publish []Stage
	// Stale lists the slots that are cleared away before an attempt, and after
	// one that failed.
	Stale func(path []bundle.Version) []bundle.Version
	// Into is the slot that a transform writes to.
	Into func(upgrade.Transform) bundle.Version
	// ByNumber says that transforms and software are taken from what the metadata in
	// force name, whatever the node means.
	ByNumber bool
	// Unproven withdraws a release before all have said that they are not there.
	Unproven bool
	// OnLive has rehearsals work on the live slot.
	OnLive bool
	// Leaves says that what the old form cannot hold is not kept.
	Leaves bool
	// TurnsFinal has a release taken back that is finalized.
	TurnsFinal bool
	// GiveUp says that software that fails after admission is left for the old one.
	GiveUp bool
}

// Stage is one thing that is done in order with others.
type Stage int

// The stages of Plant.CarryOut, then those of Plant.Publish.
const (
	StageSave Stage = iota // make it durable
	StageGate              // let callers in, or not
	StageAct               // start the actions
	StageTell              // sign the record, and tell it
	StageSyncTree
	StageRename
	StageSyncFolder
)

func (p Plant) complete() Plant {
	if p.Memory == nil {
		p.Memory = func(m node.Memory) node.Memory { return m }
	}
	if p.Event == nil {
		p.Event = func(_ *node.Node, e node.Event) node.Event { return e }
	}
	if p.Merge == nil {
		p.Merge = func(rs []view.Signed) []view.Signed { return rs }
	}
	if p.CarryOut == nil {
		p.CarryOut = []Stage{StageSave, StageGate, StageAct, StageTell}
	}
	if p.Publish == nil {
		p.Publish = []Stage{StageSyncTree, StageRename, StageSyncFolder}
	}
	if p.Stale == nil {
		p.Stale = func(path []bundle.Version) []bundle.Version { return path }
	}
	if p.Into == nil {
		p.Into = func(x upgrade.Transform) bundle.Version { return x.To }
	}
	return p
}

// agent drives a node over the virtual world.
type agent struct {
	h    *host
	s    *simulation
	node *node.Node

	seen      [nodes]uint64 // the newest number that the view was given of each host
	contents  map[bool]bool // of the release that was signed twice, those it was shown: the operator's, the thief's
	halves    [2]*set       // of two sets with one number, those it was shown
	shown     *set          // the newest metadata that this agent was shown
	exchanged bool          // an exchange with a peer has ended since the start
	busy      bool          // a Ready is being carried out: what happens is told after it
	told      []node.Event

	news   view.Signed // to be told as a rumour; zero: none
	dirty  bool        // the view has changed since it was persisted
	action uint64
	// rehearses is the action by which it rehearses; 0, or one that is under way no more: it
	// does not.
	rehearses uint64
	route     node.Route
	calls     int64
	keeps     bundle.Version // the software that is kept up; 0: none
}

// alive reports whether this agent still runs: after a crash whatever it had
// begun is void.
func (a *agent) alive() bool { return a.h.agent == a }

// after does something in a while, if the agent still runs.
func (a *agent) after(d time.Duration, do func()) {
	a.s.after(d, func() {
		if a.alive() {
			do()
			a.flush()
		}
	})
}

// every does something regularly.
func (a *agent) every(d time.Duration, do func()) {
	a.after(a.s.between(d*3/4, d*5/4), func() {
		do()
		a.every(d, do)
	})
}

// restore makes the node of what the disk has.
func (a *agent) restore() {
	m := a.h.memory()
	a.note(m.Records)
	m = a.s.plant.Memory(m)
	err := m.Seek(a.h.adopt != 0)
	var n *node.Node
	if err == nil {
		n, err = node.New(a.config(), m, a.clock())
	}
	if err != nil {
		a.s.fail("P7", "%s cannot go on from what it saved: %v", a.h.name, err)
		a.h.crash(false)
		return
	}
	a.node, a.shown = n, a.h.disk.set
	s := n.State()
	a.h.trace("agent starts in phase %s, version %d, running %d, goal %d", s.Phase, s.Version, s.Running, s.Goal)
	a.checkRestored()
}

func (a *agent) config() node.Config {
	return node.Config{
		Self: a.h.id, Key: a.h.public(), Name: a.h.name, Class: a.h.class, FirstSync: 30 * time.Second, Rules: a.s.plant.Rules, Memo: &a.s.memo, Conditions: &a.s.compiled,
		Services: map[string]node.Service{"api": {}}, Labels: a.h.labels(),
		Zone: func(string) (*time.Location, error) { return time.UTC, nil },
	}
}

// clock is the host's: it runs right, and may be set wrong.
func (a *agent) clock() time.Time { return epoch.Add(a.s.now + a.h.skew) }

// epoch is when a run begins.
var epoch = time.Unix(1_800_000_000, 0)

// begin starts what the restored node waits for, and what is done regularly.
func (a *agent) begin() {
	a.flush()
	a.every(tickInterval, func() {
		a.tell(node.Tick{})
		a.tell(a.called())
		a.sample()
		if a.s.reverting.own != nil {
			a.tell(node.Members{Alive: a.s.net.answer(a.s, a.h)})
			a.look()
		}
	})
	if a.s.rehearsing { // who has rehearsed waits for those who are there
		a.every(tickInterval, func() { a.tell(node.Members{Alive: a.s.net.answer(a.s, a.h)}) })
	}
	a.every(syncInterval, a.syncSomebody)
	a.every(persistInterval, a.persistView)
	a.after(a.s.between(0, time.Second), a.syncSomebody)
}

// called says that nobody has called of those who are watched, but now and then that
// one has.
func (a *agent) called() node.Called {
	by := map[bundle.Version]node.Calls{}
	for _, v := range a.route.Watched {
		if a.s.chance(0.05) {
			a.calls++
		}
		by[v] = node.Calls{Begun: a.calls}
	}
	return node.Called{By: by}
}

// tell tells the node what has happened.
func (a *agent) tell(e node.Event) {
	if a.busy {
		a.told = append(a.told, e)
		return
	}
	if e = a.s.plant.Event(a.node, e); e != nil && a.alive() {
		a.node.Step(a.clock(), e)
	}
}

// flush carries out what the node wants, until that is nothing.
func (a *agent) flush() {
	for a.alive() {
		r := a.node.Ready()
		if r.Empty() {
			a.checkWaiting()
			a.checkRehearsing()
			a.checkHeeds()
			a.checkForgotten()
			return
		}
		if r.Save != nil && a.h.disk.full {
			a.node.Refused("the disk is full")
			a.s.stats.Refused++
			continue
		}
		a.carryOut(r)
	}
}

// carryOut does what a Ready says; between any two parts of that the agent may die.
func (a *agent) carryOut(r node.Ready) {
	a.busy = true
	if a.s.plant.Early && r.Save != nil && r.Save.State != nil {
		a.publish(a.early(*r.Save.State))
	}
	for _, stage := range a.s.plant.CarryOut {
		if a.h.crashPoint() {
			return
		}
		switch {
		case stage == StageSave && r.Save != nil:
			a.save(*r.Save)
		case stage == StageGate:
			a.putInForce(r)
		case stage == StageAct:
			for _, x := range r.Actions {
				a.start(x)
			}
		case stage == StageTell && r.Tell != nil:
			a.publish(*r.Tell)
		}
	}
	if len(r.Dropped) > 0 {
		a.dirty = true
	}
	a.read(r.Read)
	if r.Check != nil {
		a.check(*r.Check)
	}
	if len(r.Fetch) > 0 {
		a.fetchDocuments(r.Fetch)
	}
	a.node.Advance(r)
	told := a.told
	a.busy, a.told = false, nil
	for _, e := range told {
		a.tell(e)
	}
	a.h.crashPoint()
}

// putInForce does what a Ready says of callers.
func (a *agent) putInForce(r node.Ready) {
	if r.Gate != nil {
		a.h.gate = *r.Gate
	}
	if r.Route != nil {
		a.route = *r.Route
		a.checkRoute()
	}
	if v := a.h.truth.state.Running; v != 0 && a.route.Native != v {
		a.s.fail(CheckAnswered, "%s is at version %d, and leads callers as if it were at %d", a.h.name, v, a.route.Native)
	}
}

// save makes all of a Save durable, at once.
func (a *agent) save(x node.Save) {
	d := &a.h.disk
	if !x.Metadata.IsZero() {
		next := a.s.sets[x.Metadata]
		a.checkSet(next)
		d.set = next
		a.h.trace("metadata %d in force", next.timestamp)
	}
	if x.Floor != nil {
		d.floor = *x.Floor
	}
	if !x.Evidence.IsZero() {
		d.evidence = a.s.sets[x.Evidence]
	}
	for v := range d.bound {
		if digest, ok := x.Bound[bundle.Version(v)]; ok {
			d.bound[v] = digest
		}
		if digest, ok := x.Frozen[bundle.Version(v)]; ok {
			d.frozen[v] = digest
			a.s.stats.Frozen++
			a.h.trace("release %d is frozen", v)
		}
	}
	if x.Answering != nil {
		d.answering = *x.Answering
		a.checkRetired(x.Answering.Oldest)
	}
	if x.Observed != nil {
		d.observed = *x.Observed
	}
	if x.State == nil {
		return
	}
	before, s := a.h.truth.state, *x.State
	if s.Phase != before.Phase {
		a.h.trace("%s -> %s, version %d, goal %d %s", before.Phase, s.Phase, s.Version, s.Goal, s.Reason)
	}
	if s.Step != before.Step {
		if a.rehearses != 0 && a.rehearses == a.action && s.Phase == upgrade.Rehearsing {
			a.s.stats.Interrupted++
		}
		a.action++ // what was under way is superseded
	}
	d.journal = must(s.Marshal())
	d.keep()
	a.checkDecided(before, s)
	a.noteSaved(s)
	if s.Final > before.Final {
		a.checkFinal(s.Final)
	}
}

// publish signs the host's record and passes it on.
func (a *agent) publish(r view.Record) {
	signed := must(a.s.memo.Sign(a.h.key, r))
	if r.Seq%64 == 0 && !r.SaysAs(new(must(view.Open(signed)))) { // views take it from the memo
		a.s.fail("P8", "%s signs %+v, and others read something else", a.h.name, r)
	}
	a.published(r, signed)
	a.note([]view.Signed{signed})
	a.rumour(signed)
	a.dirty = true
	a.tell(node.Told{Record: signed})
}

// early is what a node must not say yet.
func (a *agent) early(s upgrade.State) view.Record {
	r := a.h.truth.last
	r.Node, r.Key, r.Name, r.Class = a.h.id, a.h.public(), a.h.name, a.h.class
	r.Seq, r.Phase, r.Version, r.Obeys = r.Seq+1, s.Phase, s.Claims(), s.Obeys
	return r
}

// check looks whether the node could go down.
func (a *agent) check(c node.Check) {
	a.h.leaveInTurn()
	long := 100 * time.Millisecond
	if a.s.chance(0.2) {
		long = 10 * time.Second // something is fetched again, or compiled
	}
	a.after(a.s.between(time.Millisecond, long), func() {
		problem := ""
		if a.s.faulty && a.s.chance(0.02) {
			problem = "the disk has no room"
		}
		a.tell(node.CheckEnded{Step: c.Step, Problem: problem})
	})
}

// persistView keeps the view for the next start. It is a cache.
func (a *agent) persistView() {
	if !a.dirty {
		return
	}
	a.dirty, a.h.disk.records = false, slices.Collect(a.node.View().AllSigned())
}

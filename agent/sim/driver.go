package sim

import (
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Driver has the parts of the agent's loop that the promises rest on, apart,
// so that a test can break each and see that it matters. A nil field is the
// truth, as package agent has it.
type Driver struct {
	// CarryOut is what is done with a Todo, in order.
	CarryOut []Stage
	// Publish is how a new slot gets its name, in order.
	Publish []Stage
	// Decide says whether the node may go down now.
	Decide func(schedule.Input) schedule.Decision
	// Told is the state that others are told of.
	Told func(saved, now upgrade.State) upgrade.State
	// Restored is what a restarted agent makes of the state that was saved.
	Restored func(saved upgrade.State) upgrade.State
	// Synced says whether the agent takes itself for synced.
	Synced func(exchanged bool) bool
	// Newer says whether metadata of one timestamp take the place of those of another.
	Newer func(have, got int64) bool
	// Successor says why an order may not take the place of another.
	Successor func(old, next *schedule.Order) error
	// Merge takes over records.
	Merge func(*view.View, []view.Signed) ([]bundle.NodeID, error)
	// Stale lists the slots that are cleared away before an attempt, and after
	// one that failed.
	Stale func(path []bundle.Version) []bundle.Version
	// Into is the slot that a transform writes to.
	Into func(upgrade.Transform) bundle.Version
	// GiveUp says whether software that fails after admission is left for the
	// old one.
	GiveUp func(upgrade.State) bool
}

// Stage is one thing that is done in order with others.
type Stage int

// The stages of Driver.CarryOut, then those of Driver.Publish.
const (
	StageSave    Stage = iota // make the state durable
	StagePublish              // sign what it says, and tell it
	StageAct                  // start the actions
	StageSyncTree
	StageRename
	StageSyncFolder
)

func (d Driver) complete() Driver {
	if d.CarryOut == nil {
		d.CarryOut = []Stage{StageSave, StagePublish, StageAct}
	}
	if d.Publish == nil {
		d.Publish = []Stage{StageSyncTree, StageRename, StageSyncFolder}
	}
	if d.Decide == nil {
		d.Decide = schedule.Decide
	}
	if d.Told == nil {
		d.Told = func(saved, _ upgrade.State) upgrade.State { return saved }
	}
	if d.Restored == nil {
		d.Restored = func(saved upgrade.State) upgrade.State { return saved }
	}
	if d.Synced == nil {
		d.Synced = func(exchanged bool) bool { return exchanged }
	}
	if d.Newer == nil {
		d.Newer = func(have, got int64) bool { return got > have }
	}
	if d.Successor == nil {
		d.Successor = schedule.Successor
	}
	if d.Merge == nil {
		d.Merge = func(v *view.View, rs []view.Signed) ([]bundle.NodeID, error) { return v.Merge(rs...) }
	}
	if d.Stale == nil {
		d.Stale = func(path []bundle.Version) []bundle.Version { return path }
	}
	if d.Into == nil {
		d.Into = func(x upgrade.Transform) bundle.Version { return x.To }
	}
	if d.GiveUp == nil {
		d.GiveUp = func(upgrade.State) bool { return false }
	}
	return d
}

// agent mirrors package agent's loop over the virtual world: the same steps in
// the same order, without goroutines.
type agent struct {
	h *host
	s *simulation

	machine   *upgrade.Machine
	saved     upgrade.State   // what is durable: all that others are told
	unsaved   []upgrade.Event // what happened while the disk was full
	view      *view.View
	seen      [nodes]uint64 // the newest number that the view was given of each host
	orders    [maxRelease + 1]*schedule.Order
	fetching  bool // documents are being fetched
	exchanged bool // an exchange with a peer has ended since the start
	started   time.Duration

	wait      schedule.Reason
	notBefore time.Duration
	preflight bool
	doneAt    map[doneKey]time.Duration

	own    view.Record
	seq    uint64
	news   view.Signed // to be told as a rumour; zero: none
	dirty  bool        // the view has changed since it was persisted
	action uint64
	keeps  bundle.Version // the software that is kept up; 0: none
	live   live
}

// doneKey names a host's settlement for a release.
type doneKey struct {
	host    int
	release bundle.Version
}

// live is what callers may reach.
type live struct {
	version         bundle.Version
	ready, admitted bool
}

func newAgent(h *host) *agent {
	return &agent{h: h, s: h.s, view: view.New(), doneAt: map[doneKey]time.Duration{}, started: h.s.now}
}

// alive reports whether this agent still runs: after a crash whatever it had
// begun is void.
func (a *agent) alive() bool { return a.h.agent == a }

// after does something in a while, if the agent still runs; then it decides.
func (a *agent) after(d time.Duration, do func()) {
	a.s.after(d, func() {
		if !a.alive() {
			return
		}
		do()
		a.decide()
	})
}

// every does something regularly.
func (a *agent) every(d time.Duration, do func()) {
	a.after(a.s.between(d*3/4, d*5/4), func() {
		do()
		a.every(d, do)
	})
}

// restore brings back what the disk has.
func (a *agent) restore() {
	a.take(a.h.disk.records)
	a.seq = a.h.disk.floor.recordSeq
	saved := a.lastState()
	state := a.s.drv.Restored(saved)
	machine, err := upgrade.New(state)
	if err != nil {
		a.s.fail("P7", "%s cannot go on from what it saved: %v", a.h.name, err)
		a.h.crash(false)
		return
	}
	a.machine, a.saved = machine, machine.State()
	a.h.trace("agent starts in phase %s, version %d, running %d, goal %d", state.Phase, state.Version, state.Running, state.Goal)
	a.checkRestored(saved)
	a.loadDocuments()
}

// lastState is the state in the journal, or where there is none, what the
// slots and the floor say.
func (a *agent) lastState() upgrade.State {
	d := &a.h.disk
	if d.journal != nil {
		return must(upgrade.ParseState(d.journal))
	}
	p := d.floor.promises
	switch {
	case d.current != 0:
		return upgrade.Restored(d.current, p)
	case a.h.adopt == 0:
		return upgrade.State{Phase: upgrade.Current, Said: p.Settled, Obeys: p.Obeys, EndedRelease: p.EndedRelease, EndedCount: p.EndedCount}
	}
	d.current = a.h.adopt
	d.sync()
	return upgrade.Adopted(a.h.adopt)
}

// begin starts what the restored machine waits for, and what is done regularly.
func (a *agent) begin() {
	a.carryOut()
	a.every(tickInterval, a.goOn)
	a.every(syncInterval, a.syncSomebody)
	a.every(persistInterval, a.persistView)
	a.after(a.s.between(0, time.Second), a.syncSomebody)
	if a.alive() {
		a.decide()
	}
}

// step tells the machine what happened, and carries out what follows. While
// the state before that could not be made durable, events wait.
func (a *agent) step(e upgrade.Event) {
	if a.stuck() {
		a.unsaved = append(a.unsaved, e)
		return
	}
	before := a.machine.State()
	a.machine.Step(e)
	if s := a.machine.State(); s.Phase != before.Phase {
		a.h.trace("%s -> %s, version %d, goal %d %s", before.Phase, s.Phase, s.Version, s.Goal, s.Reason)
		if a.retriesAlone(s) {
			a.notBefore = a.s.now + retryInstall
		}
	}
	a.carryOut()
}

// stuck reports that a state waits to be saved.
func (a *agent) stuck() bool { return a.machine.Todo().Save != nil }

// goOn tries again to save what the disk had no room for.
func (a *agent) goOn() {
	if !a.stuck() {
		return
	}
	a.carryOut()
	for a.alive() && len(a.unsaved) > 0 && !a.stuck() {
		e := a.unsaved[0]
		a.unsaved = a.unsaved[1:]
		a.step(e)
	}
}

// carryOut makes the machine's state durable, tells it, and starts its
// actions; between any two of these the agent may die.
func (a *agent) carryOut() {
	todo := a.machine.Todo()
	if todo.Empty() || (todo.Save != nil && a.h.disk.full) {
		return
	}
	for _, stage := range a.s.drv.CarryOut {
		if a.h.crashPoint() {
			return
		}
		switch stage {
		case StageSave:
			if todo.Save != nil {
				a.save(*todo.Save)
			}
		case StagePublish:
			if todo.Save != nil {
				a.live.admitted = a.live.admitted && todo.Save.Phase == upgrade.Probing
				a.route()
				a.publish()
			}
		case StageAct:
			a.machine.Advance()
			for _, action := range todo.Actions {
				a.start(action)
			}
		}
	}
	a.h.crashPoint()
}

func (a *agent) save(s upgrade.State) {
	a.h.disk.journal = must(s.Marshal())
	a.h.disk.floor.raise(s)
	if s.Step != a.saved.Step {
		a.action++ // what was under way is superseded
	}
	a.saved = s
	a.noteSaved(s)
}

// route opens or closes the way of callers to the software.
func (a *agent) route() {
	s := a.saved
	up := a.live.ready && a.live.version == s.Running && s.Running != 0 && !s.Phase.Down()
	if s.Phase == upgrade.Probing && !a.live.admitted {
		up = false
	}
	a.h.soft.open = up && a.h.soft.running && a.h.soft.version == s.Running
}

// publish signs the host's record and tells it, if it says anything new.
func (a *agent) publish() {
	r := a.record()
	if a.own.Seq != 0 && sameWord(r, a.own) {
		return
	}
	r.Since = time.Unix(1_800_000_000, 0).Add(a.s.now + a.h.skew).UTC()
	a.seq++
	if f := &a.h.disk.floor; a.seq > f.recordSeq {
		f.recordSeq = a.seq + seqBlock
	}
	r.Seq = a.seq
	signed := must(view.Sign(a.h.key, r))
	a.published(r, signed)
	a.own = r
	a.take([]view.Signed{signed})
	a.noteDone(a.h.id)
	a.rumour(signed)
}

// record is what the host says of itself now. Addresses, labels and the like,
// by which nobody decides, are left out.
func (a *agent) record() view.Record {
	s := a.s.drv.Told(a.saved, a.machine.State())
	return view.Record{
		Node: a.h.id, Name: a.h.name, Class: a.h.class, Version: s.Claims(), Target: s.Goal,
		Phase: string(s.Phase), Reason: s.Reason, Obeys: s.Obeys,
		Ended: view.Ended{Release: s.EndedRelease, Count: s.EndedCount},
		Held:  s.Phase == upgrade.Held,
	}
}

// sameWord reports whether two records of one host say the same.
func sameWord(a, b view.Record) bool {
	return a.Version == b.Version && a.Target == b.Target && a.Phase == b.Phase && a.Reason == b.Reason &&
		a.Obeys == b.Obeys && a.Ended == b.Ended
}

// persistView keeps the view for the next start. It is a cache.
func (a *agent) persistView() {
	if !a.dirty {
		return
	}
	a.dirty = false
	var records []view.Signed
	for r := range a.view.All() {
		if s, ok := a.view.Signed(r.Node); ok {
			records = append(records, s)
		}
	}
	a.h.disk.records = records
}

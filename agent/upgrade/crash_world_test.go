package upgrade

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"moult/store/bundle"
)

// slot is the content of one: whose form it has, how many of the acknowledged
// writes, and whether it is whole.
type slot struct {
	form   bundle.Version
	writes int
	whole  bool
}

// disk is what survives; the fields of a world's synced disk survive anything.
type disk struct {
	journal []byte // nil: nothing was saved yet
	saved   State  // what journal says
	slots   map[bundle.Version]slot
	current bundle.Version
}

func (d disk) clone() disk {
	d.slots = maps.Clone(d.slots)
	return d
}

type world struct {
	sc      scenario
	flaws   flaws
	crashes []crash // still to come
	points  int     // passed since the last start

	m        *Machine
	disk     disk // as the running system sees it
	synced   disk
	process  bundle.Version // the software that runs; 0: none
	acked    int            // writes that callers were promised
	admitted bundle.Version // the newest release that ever had callers
	old      *slot          // the live slot, when its software had stopped
	tried    map[string]int
	bad      bundle.Version // the release whose last rehearsal failed; 0: none
	retried  int
}

func newWorld(sc scenario, f flaws, crashes []crash) *world {
	d := disk{saved: sc.start, slots: map[bundle.Version]slot{}}
	w := &world{sc: sc, flaws: f, crashes: crashes, tried: map[string]int{}}
	if v := sc.start.Running; v != 0 {
		d.slots[v] = slot{form: v, writes: 7, whole: true}
		d.current, w.acked = v, 7
	}
	w.disk, w.synced = d.clone(), d.clone()
	return w
}

// crashed unwinds what was under way; broken is a promise that was.
type crashed struct{}
type broken struct{ error }

func fail(format string, args ...any) { panic(broken{fmt.Errorf(format, args...)}) }

// run goes on, crash after crash, until the story is at its end.
func (w *world) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			b, ok := r.(broken)
			if !ok {
				panic(r)
			}
			err = b.error
		}
	}()
	for !w.live() {
		continue // it crashed, and starts again; there are only so many crashes
	}
	return nil
}

// live is one life of the agent. It reports whether the story came to its end.
func (w *world) live() (ended bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crashed); !ok {
				panic(r)
			}
		}
	}()
	w.start()
	for steps := 0; ; steps++ {
		if steps > 200 {
			fail("it does not come to an end: %+v", w.m.State())
		}
		if todo := w.m.Todo(); !todo.Empty() {
			w.carryOut(todo)
			continue
		}
		e := w.next()
		if e == nil {
			w.checkEnd()
			return true
		}
		w.m.Step(e)
	}
}

// start makes the machine from what was saved: promise P7.
func (w *world) start() {
	w.points = 0
	state := w.disk.saved
	if w.disk.journal != nil {
		var err error
		if state, err = ParseState(w.disk.journal); err != nil || !reflect.DeepEqual(state, w.disk.saved) {
			fail("saved %+v, and read %+v: %v", w.disk.saved, state, err)
		}
	}
	m, err := New(state)
	if err != nil {
		fail("it cannot go on: %v", err)
	}
	again, _ := New(m.State())
	if todo := m.Todo(); todo.Save != nil || !reflect.DeepEqual(todo, again.Todo()) {
		fail("made anew it asks for %+v, and again for %+v", todo, again.Todo())
	}
	w.m = m
}

// point is a place where a crash may fall.
func (w *world) point() {
	w.points++
	w.check()
	if len(w.crashes) == 0 || w.crashes[0].point != w.points {
		return
	}
	how := w.crashes[0].way
	w.crashes = w.crashes[1:]
	switch how {
	case powered:
		w.process = 0
	case lost:
		w.process = 0
		w.disk = w.synced.clone()
	}
	w.synced = w.disk.clone()
	panic(crashed{})
}

// sync makes the slots and the name of the live one durable.
func (w *world) sync() {
	journal, saved := w.synced.journal, w.synced.saved
	w.synced = w.disk.clone()
	w.synced.journal, w.synced.saved = journal, saved
}

// next is what happens from outside; nil when nothing more will.
func (w *world) next() Event {
	s := w.m.State()
	switch s.Phase {
	case Rehearsing:
		return MayRehearse{s.Goal}
	case Waiting:
		return Go{s.Goal}
	case Current:
		for _, g := range w.sc.goals {
			if g.Goal > s.Version {
				return g
			}
		}
	case Held:
		for _, g := range w.sc.goals {
			if g.Goal > s.EndedRelease {
				return g
			}
		}
		if w.retried < w.sc.retries {
			w.retried++
			return Retry{s.EndedRelease}
		}
	}
	return nil
}

// carryOut does as the driver must: save, then act, then tell what came of it.
func (w *world) carryOut(todo Todo) {
	w.point()
	if !w.flaws.actFirst {
		w.save(todo)
	}
	w.point()
	w.m.Advance()
	var answers []Event
	for _, a := range todo.Actions {
		answers = append(answers, w.perform(a))
		w.point()
	}
	if w.flaws.actFirst {
		w.save(todo)
	}
	for _, e := range answers {
		if e != nil {
			w.m.Step(e)
		}
	}
}

func (w *world) save(todo Todo) {
	if todo.Save == nil {
		return
	}
	data, err := todo.Save.Marshal()
	if err != nil {
		fail("%v", err)
	}
	w.disk.journal, w.disk.saved = data, *todo.Save
	if !w.flaws.unsynced {
		w.synced.journal, w.synced.saved = w.disk.journal, w.disk.saved
	}
}

// fails reports whether an action fails this time.
func (w *world) fails(what string, v bundle.Version) bool {
	key := fmt.Sprintf("%s %d", what, v)
	w.tried[key]++
	return slices.Contains(w.sc.fails[key], w.tried[key])
}

// perform carries out an action, as package agent does, and returns its event.
func (w *world) perform(a Action) Event {
	switch a := a.(type) {
	case Run:
		w.ensure(a.Version)
		w.call()
	case Fetch:
		return Staged{a.Step}
	case Rehearse:
		w.point()
		if w.flaws.onLive {
			w.disk.slots[a.From] = slot{form: a.Path[0]}
		}
		to := a.Path[len(a.Path)-1]
		w.bad = 0
		if w.fails("try", to) {
			return Failed{Step: a.Step, Reason: "no room", Unable: true}
		}
		if w.fails("rehearse", to) {
			w.bad = to
			if !w.flaws.deaf {
				return Failed{Step: a.Step, Reason: "cannot read it"}
			}
		}
		return Rehearsed{Step: a.Step}
	case Drain:
		if to := w.m.State().Software(); to == w.bad {
			fail("it goes down for release %d, which failed in its rehearsal (P13)", to)
		}
		w.process = 0
		w.point()
		w.clear(w.m.State().Path)
		return Drained{a.Step}
	case Transform:
		return w.transform(a)
	case Launch:
		w.ensure(a.Version)
		w.point()
		if w.fails("launch", a.Version) {
			return Failed{Step: a.Step, Reason: "unready"}
		}
		if w.flaws.openEarly {
			w.call()
		}
		return Ready{a.Step}
	case Admit:
		w.disk.current = a.Version
		w.point()
		w.sync()
		w.ensure(a.Version)
		w.point()
		w.call()
		return Admitted{a.Step}
	case Probe:
		w.call()
		if w.fails("probe", a.Version) {
			return Failed{Step: a.Step, Reason: "died"}
		}
		return Healthy{a.Step}
	case Settle:
		w.clear(w.outdated())
		return Recorded{a.Step}
	case Rollback:
		w.process = 0
		w.point()
		w.clear(w.m.State().Path)
		if a.To != 0 {
			w.ensure(a.To)
		}
		return RolledBack{Step: a.Step}
	}
	return nil
}

func (w *world) transform(a Transform) Event {
	if w.fails("transform", a.To) {
		return Failed{Step: a.Step, Reason: "boom", Later: w.sc.later}
	}
	if _, made := w.disk.slots[a.To]; made {
		w.sync()
		return Transformed{a.Step, a.To}
	}
	made := slot{form: a.To, writes: w.disk.slots[a.From].writes, whole: true}
	if w.flaws.inPlace && a.From != 0 {
		w.disk.slots[a.From] = made
		w.sync()
	}
	if w.flaws.noName {
		w.disk.slots[a.To] = slot{form: a.To}
	}
	w.point() // half of it is written, beside
	w.disk.slots[a.To] = made
	w.point() // it has its name, which is not synced
	w.sync()
	return Transformed{a.Step, a.To}
}

// clear removes slots, one by one, and syncs at the end.
func (w *world) clear(versions []bundle.Version) {
	if w.flaws.keepSlots {
		return
	}
	for _, v := range versions {
		delete(w.disk.slots, v)
		w.point()
	}
	w.sync()
}

// outdated lists the slots before the one before the running one.
func (w *world) outdated() []bundle.Version {
	var before []bundle.Version
	for _, v := range slices.Sorted(maps.Keys(w.disk.slots)) {
		if v < w.m.State().Running {
			before = append(before, v)
		}
	}
	return before[:max(0, len(before)-1)]
}

// ensure starts the software of v on its slot, unless it runs.
func (w *world) ensure(v bundle.Version) {
	if w.process == v {
		return
	}
	if s := w.disk.slots[v]; !s.whole || s.form != v {
		fail("version %d starts on a slot that is %+v", v, s)
	}
	w.process = v
}

// call is a caller who writes, and is promised that the write stays.
func (w *world) call() {
	v := w.process
	if v < w.admitted {
		fail("version %d had callers, and now version %d has", w.admitted, v)
	}
	w.admitted = v
	s := w.disk.slots[v]
	if s.writes != w.acked {
		fail("callers were promised %d writes, and version %d has %d", w.acked, v, s.writes)
	}
	s.writes++
	w.acked++
	w.disk.slots[v] = s
	if _, named := w.synced.slots[v]; named {
		w.synced.slots[v] = s
	}
}

// check looks at the world at every point: the live slot is whole, and while
// its software is down for an attempt, it stays as it was.
func (w *world) check() {
	s := w.disk.saved
	if live, ok := w.disk.slots[s.Running]; s.Running != 0 && (!ok || !live.whole || live.form != s.Running) {
		fail("phase %q: the live slot %d is %+v", s.Phase, s.Running, live)
	}
	switch s.Phase {
	case Transforming, Starting, RollingBack:
		if live, ok := w.disk.slots[s.Running]; ok && w.old == nil {
			w.old = &live
		} else if ok && *w.old != live {
			fail("phase %q: the old slot was %+v and is %+v", s.Phase, *w.old, live)
		}
	default:
		w.old = nil
	}
}

// checkEnd looks at where it all came to: settled, or held with what was there
// before, or with what callers were admitted to.
func (w *world) checkEnd() {
	s := w.m.State()
	if !reflect.DeepEqual(s, w.disk.saved) {
		fail("it ends as %+v, and %+v is saved", s, w.disk.saved)
	}
	switch {
	case s.Phase == Current && slices.Contains(w.sc.ends, s.Version):
	case s.Phase == Held && w.sc.held && s.EndedCount > 0:
	default:
		fail("it ends as %+v", s)
	}
	if s.Running == 0 {
		if len(w.disk.slots) != 0 {
			fail("nothing is installed, and there are slots %v", w.disk.slots)
		}
		return
	}
	if w.process != s.Running || w.disk.current != s.Running {
		fail("it ends with version %d running, slot %d live and process %d", s.Running, w.disk.current, w.process)
	}
	w.call()
}

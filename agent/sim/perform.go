package sim

import (
	"fmt"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// start begins one action; a newer one ends the older. The parts of an action
// are events of their own, so that a crash falls between any two.
func (a *agent) start(x upgrade.Action) {
	a.checkStarted()
	if x, ok := x.(upgrade.Run); ok {
		a.keep(x.Version)
		return
	}
	a.action++
	s := a.node.State()
	switch x := x.(type) {
	case upgrade.Fetch:
		a.stage(x)
	case upgrade.Rehearse:
		a.rehearse(x)
	case upgrade.Drain:
		a.drain(s.Path, func() { a.ended(upgrade.Drained{Step: x.Step}) })
	case upgrade.Transform:
		a.transform(x)
	case upgrade.Launch:
		a.launch(x)
	case upgrade.Admit:
		a.admit(x)
	case upgrade.Probe:
		a.probe(x)
	case upgrade.Settle:
		a.removeOldSlots(s.Running, false)
		a.h.sickenSettled(s.Running)
		a.h.leaveInSoak()
		a.during(10*time.Millisecond, func() { a.ended(upgrade.Recorded{Step: x.Step}) })
	case upgrade.Finish:
		a.finish(x)
	case upgrade.Rollback:
		a.rollBack(x, s.Path)
	default:
		panic(fmt.Sprintf("sim: unknown action %T", x))
	}
}

// during does the next part of the action under way, unless it was superseded;
// between any two parts the agent may die.
func (a *agent) during(d time.Duration, do func()) {
	action := a.action
	a.after(d, func() {
		if a.action == action && !a.h.crashPoint() {
			do()
		}
	})
}

// a little while, for parts of actions.
func (a *agent) little() time.Duration { return a.s.between(time.Millisecond, 100*time.Millisecond) }

// ended answers an action.
func (a *agent) ended(e upgrade.Event) { a.tell(node.ActionEnded{Answer: e}) }

func (a *agent) failed(step uint64, reason string, later bool) {
	a.ended(upgrade.Failed{Step: step, Reason: reason, Later: later})
}

// keep keeps the software up: adopts or starts it, and starts it again when it
// ends.
func (a *agent) keep(v bundle.Version) {
	if d := &a.h.disk; d.current != v && d.slots[v] != (content{}) {
		d.current = v // it was admitted, and a crash came before the switch
		d.sync()
	}
	if a.keeps == v {
		return
	}
	a.keeps = v
	if a.h.lost == v {
		a.tell(node.SoftwareDown{Version: v, Ended: true, Reason: "it ended while no agent ran"})
	}
	a.keepUp(v)
}

func (a *agent) keepUp(v bundle.Version) {
	a.after(a.little(), func() {
		if a.keeps != v {
			return
		}
		a.h.ensure(v)
		a.after(a.little(), func() {
			if a.keeps == v && a.h.soft.running && a.h.soft.version == v {
				a.open(v)
			}
		})
	})
}

// softwareEnded is told by the supervisor that the software died by itself.
func (a *agent) softwareEnded(v bundle.Version) {
	a.tell(node.SoftwareDown{Version: v, Ended: true, Reason: "it died"})
	if v := a.keeps; v != 0 {
		a.after(a.s.between(0, 2*time.Second), func() {
			if a.keeps == v {
				a.keepUp(v)
			}
		})
	}
}

// open notes that the software answers, if it does.
func (a *agent) open(v bundle.Version) {
	if a.h.soft.fails {
		a.tell(node.SoftwareDown{Version: v, Reason: "it is not ready"})
		return
	}
	a.tell(node.SoftwareUp{Version: v})
}

func (a *agent) stage(x upgrade.Fetch) {
	a.during(a.s.between(50*time.Millisecond, 2*time.Second), func() {
		for _, v := range x.Path {
			if a.h.strikes("fetch", v) {
				a.failed(x.Step, "no software for this platform", false)
				return
			}
		}
		a.ended(upgrade.Staged{Step: x.Step})
	})
}

// rehearse runs the path on a copy. It finds most of what would fail, and sometimes
// fails alone.
func (a *agent) rehearse(x upgrade.Rehearse) {
	t, to := &a.h.truth, x.Path[len(x.Path)-1]
	t.rehearsed = rehearsed{}
	a.rehearses = a.action
	a.checkTurn()
	if a.s.plant.OnLive {
		d := &a.h.disk
		d.slots[x.From].form = x.Path[0]
	}
	pause := time.Duration(x.Before) * time.Second / 4
	a.during(pause+a.s.between(50*time.Millisecond, 20*time.Second/time.Duration(1+x.Before)), func() {
		a.rehearses = 0
		a.s.stats.Rehearsed++
		if a.h.strikes("unable", to) {
			a.s.stats.Unable++
			a.ended(upgrade.Failed{Step: x.Step, Reason: "no room for a copy", Unable: true})
			return
		}
		fit := !a.s.faulty || !a.s.chance(0.1)
		for _, v := range x.Path {
			fit = fit && !a.h.strikes("transform", v)
		}
		if a.s.faulty && a.s.chance(0.05) {
			a.failed(x.Step, "its software is not here any more", true)
			return
		}
		t.rehearsed = rehearsed{step: x.Step, ended: true, fit: fit && !a.h.strikes("launch", to)}
		if !t.rehearsed.fit {
			a.s.stats.Unfit++
			a.failed(x.Step, fmt.Sprintf("version %d does not get ready on a copy", to), false)
			return
		}
		a.ended(upgrade.Rehearsed{Step: x.Step})
	})
}

// drain lets calls end while others come, closes the way, stops the software, and clears
// away slots that an earlier attempt may have left.
func (a *agent) drain(path []bundle.Version, then func()) {
	a.keeps = 0
	a.during(a.s.between(10*time.Millisecond, 500*time.Millisecond), func() {
		a.tell(node.SoftwareStops{})
		a.h.stop()
		a.h.disk.ran = 0
		a.during(a.little(), func() {
			for _, v := range a.s.plant.Stale(path) {
				a.h.disk.slots[v] = content{}
			}
			a.during(a.little(), func() {
				a.h.disk.sync()
				then()
			})
		})
	})
}

// transform makes one slot. A slot that is there was made by this attempt,
// before a crash: drain cleared away all others.
func (a *agent) transform(x upgrade.Transform) {
	a.checkBase(x)
	d := &a.h.disk
	if d.slots[x.To] != (content{}) {
		d.loose[x.To] = false // publishing syncs its files once more
		a.during(a.little(), func() { a.made(x) })
		return
	}
	if x.From == 0 {
		a.name(x, content{form: x.To, whole: true})
		return
	}
	into := a.s.plant.Into(x)
	if into != x.To {
		d.slots[into].whole = false
	}
	slow := time.Second
	if a.s.chance(0.3) {
		slow = 40 * time.Second
	}
	a.during(a.s.between(50*time.Millisecond, slow), func() {
		for _, kind := range []string{"transform", "later"} {
			if a.h.strikes(kind, x.To) {
				a.failed(x.Step, fmt.Sprintf("the transform to version %d failed", x.To), kind == "later")
				return
			}
		}
		made := content{form: x.To, writes: d.slots[x.From].writes, details: d.slots[x.From].details, whole: d.slots[x.From].whole || into != x.To}
		made.details[x.To] = d.complement[x.To]
		if x.To < x.From {
			made = a.takeBack(x)
		}
		if into != x.To {
			d.slots[into].whole = true
		}
		a.name(x, made)
	})
}

// name gives a new slot its name, so that a crash leaves the whole or nothing.
func (a *agent) name(x upgrade.Transform, made content) {
	d := &a.h.disk
	d.loose[x.To] = true
	stages := a.s.plant.Publish
	var next func(int)
	next = func(i int) {
		if i == len(stages) {
			a.made(x)
			return
		}
		switch stages[i] {
		case StageSyncTree:
			d.loose[x.To] = false
		case StageRename:
			made.by = a.by(x.To)
			a.checkContent(x.To, made.by)
			d.slots[x.To] = made
		case StageSyncFolder:
			d.sync()
		}
		a.during(a.little(), func() { next(i + 1) })
	}
	next(0)
}

func (a *agent) made(x upgrade.Transform) {
	a.h.disk.sync()
	a.ended(upgrade.Transformed{Step: x.Step, To: x.To})
}

// launch starts the new software, or adopts it, and waits until it is ready.
func (a *agent) launch(x upgrade.Launch) {
	a.h.ensure(x.Version)
	a.during(a.s.between(50*time.Millisecond, time.Second), func() {
		switch {
		case a.h.strikes("launch", x.Version):
			a.failed(x.Step, fmt.Sprintf("version %d does not get ready", x.Version), false)
		case !a.h.soft.running || a.h.soft.version != x.Version:
			a.failed(x.Step, fmt.Sprintf("version %d has ended", x.Version), false)
		default:
			a.open(x.Version)
			a.ended(upgrade.Ready{Step: x.Step})
		}
	})
}

// admit makes the new slot the current one and lets callers in.
func (a *agent) admit(x upgrade.Admit) {
	a.h.disk.current = x.Version
	a.during(a.little(), func() {
		a.h.disk.sync()
		a.h.ensure(x.Version)
		a.during(a.little(), func() {
			if !a.h.soft.running {
				a.failed(x.Step, fmt.Sprintf("version %d has ended", x.Version), false)
				return
			}
			a.open(x.Version)
			a.tell(node.LetIn{})
			a.ended(upgrade.Admitted{Step: x.Step})
		})
	})
}

func (a *agent) probe(x upgrade.Probe) {
	a.during(a.s.between(200*time.Millisecond, 2*time.Second), func() {
		running := a.h.soft.running && a.h.soft.version == x.Version
		if running && !a.h.strikes("probe", x.Version) {
			a.ended(upgrade.Healthy{Step: x.Step})
			return
		}
		if a.s.plant.GiveUp {
			a.forgetAdmission()
		}
		a.failed(x.Step, fmt.Sprintf("version %d did not stay healthy", x.Version), false)
	})
}

// forgetAdmission is what must not be done: it makes a node that believes that no
// callers were let in yet, so that it goes back to the slot before.
func (a *agent) forgetAdmission() {
	s := a.node.State()
	for s.Running--; a.h.disk.slots[s.Running] == (content{}); s.Running-- {
		if s.Running == 0 {
			return // it was installed: there is no slot before
		}
	}
	s.Phase = upgrade.Starting
	a.h.disk.current = s.Running // the live slot would tell
	a.h.disk.sync()
	a.save(node.Save{State: &s})
	a.node = must(node.New(a.config(), a.h.memory(), a.clock()))
	a.node.Advance(a.node.Ready())
}

// rollBack stops the new software and brings back the old. It insists: the
// attempt has ended only when the old software is up again.
func (a *agent) rollBack(x upgrade.Rollback, path []bundle.Version) {
	a.drain(path, func() {
		if x.To == 0 {
			a.ended(upgrade.RolledBack{Step: x.Step})
			return
		}
		a.h.ensure(x.To)
		a.during(a.little(), func() {
			if !a.h.soft.running || a.h.strikes("unwell", x.From) {
				a.during(a.s.between(time.Second, 3*time.Second), func() { a.rollBack(x, path) })
				return
			}
			a.open(x.To)
			a.ended(upgrade.RolledBack{Step: x.Step})
		})
	})
}

// removeOldSlots keeps the slot before the running one, unless all are to go.
func (a *agent) removeOldSlots(running bundle.Version, all bool) {
	d := &a.h.disk
	var previous bundle.Version
	for v := range running {
		if d.slots[v] != (content{}) {
			previous = v
		}
	}
	if all {
		previous = running
	}
	for v := range previous {
		d.slots[v] = content{}
	}
	d.sync()
}

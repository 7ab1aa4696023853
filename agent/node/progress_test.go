package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// TestIdle: a rollout gets on when a node settles, and with each order; time passes else.
func TestIdle(t *testing.T) {
	b := newBench(t, upgrade.State{Phase: upgrade.Held, Version: 1, Running: 1, Served: true, Step: 1})
	b.releases(1, 2)
	b.order(2)
	tick := func(d time.Duration) {
		b.Step(b.now.Add(d), Tick{})
		b.decide()
	}
	tick(0)
	tick(20 * time.Minute)
	tick(20 * time.Minute)
	if idle := b.Idle(2, "kv"); idle != 40*time.Minute {
		t.Errorf("idle for %s", idle)
	}
	if b.Idle(1, "kv") != 0 {
		t.Error("it is not the newest")
	}
	b.order(2) // another one
	tick(0)
	if idle := b.Idle(2, "kv"); idle != 0 {
		t.Errorf("the order is new: idle for %s", idle)
	}
	tick(time.Minute)
	b.saved.Version, b.saved.Said = 2, 2 // what this node says of itself
	tick(time.Minute)
	if idle := b.Idle(2, "kv"); idle != 0 {
		t.Errorf("one has settled: idle for %s", idle)
	}
}

// TestIdleByClass: class kv waits for its window, and web for kv; neither has to get on before that
// opens, and then only kv has. What has stopped stays so over the day.
func TestIdleByClass(t *testing.T) {
	b := newBench(t, at(1))
	b.cfg.Zone = time.LoadLocation
	b.releases(1, 2)
	b.order(2)
	other := b.record(nil, func(r *view.Record) { r.Class = "web" })
	const deadline = bundle.Duration(2 * time.Hour)
	classes := b.docs.orders[2].Classes
	classes["kv"] = schedule.ClassOrder{
		Strategy: bundle.StrategyRolling, Roster: []bundle.NodeID{b.cfg.Self}, MaxUnavailable: 1, FailureMax: 1, ProgressDeadline: deadline,
		Windows: []bundle.Window{{Start: "02:00", Length: bundle.Duration(3 * time.Hour), Timezone: "UTC"}},
	}
	classes["web"] = schedule.ClassOrder{
		Strategy: bundle.StrategyRolling, Roster: []bundle.NodeID{other}, MaxUnavailable: 1, FailureMax: 1, ProgressDeadline: deadline, After: []bundle.Class{"kv"},
	}
	b.Step(time.Date(2027, 3, 4, 12, 0, 0, 0, time.UTC), Synced{})
	b.decide()
	tick := func(d time.Duration, kv, web time.Duration) {
		t.Helper()
		b.Step(b.now.Add(d), Tick{})
		b.decide()
		if k, w := b.Idle(2, "kv"), b.Idle(2, "web"); k != kv || w != web {
			t.Errorf("%s: kv is idle for %s, web for %s", b.now.Format("15:04"), k, w)
		}
	}
	tick(13*time.Hour, 0, 0)
	tick(time.Hour-time.Second, 0, 0)
	tick(time.Second, time.Second, 0)
	if d := b.decides(); !d.Go {
		t.Errorf("its window is open, and it does not go: %+v", d.Reason)
	}
	tick(2*time.Hour, 2*time.Hour+time.Second, 0)
	if d := b.decides(); d.Reason.Code != schedule.CodeStopped {
		t.Errorf("it has had its time: %+v", d.Reason)
	}
	tick(time.Hour, 2*time.Hour+time.Second, 0) // the window closes
	tick(21*time.Hour-time.Second, 2*time.Hour+time.Second, 0)
	tick(time.Second, 2*time.Hour+2*time.Second, 0)
	if d := b.decides(); d.Reason.Code != schedule.CodeStopped {
		t.Errorf("the next window is open, and nothing has come of the last: %+v", d.Reason)
	}
	b.saved.Version, b.saved.Said = 2, 2 // what this node says of itself
	tick(time.Minute, 0, time.Minute)
	tick(time.Minute, 0, 2*time.Minute)
}

// TestFinalAfterRestart: the time until a release is finalized goes on after a restart, but for
// that in which no agent ran, and not before a peer was heard from and the ring says who can be
// reached; a node that has begun says so, and begins again after a crash.
func TestFinalAfterRestart(t *testing.T) {
	start := time.Unix(1_800_000_000, 0).UTC()
	s := upgrade.State{Phase: upgrade.Current, Version: 2, Running: 2, Served: true, Step: 1}
	fifty := schedule.Observed{Release: 2, For: bundle.Duration(50 * time.Minute), Seen: start}
	begin := func(s upgrade.State, o schedule.Observed) *bench {
		b := newBench(t, s)
		b.observed, b.observedSaved = o, o
		b.releases(1, 2, reversible)
		b.order(2)
		b.docs.orders[2].FinalizeAfter = bundle.Duration(time.Hour)
		b.meta.Expires = start.Add(24 * time.Hour)
		return b
	}
	// runs has it look once a second for so long, from some time after the start.
	runs := func(b *bench, from, lasts time.Duration, does ...Event) {
		for d := time.Duration(0); d <= lasts; d += time.Second {
			for _, e := range append(does, Tick{}) {
				b.Step(start.Add(from+d), e)
			}
			for r := b.Ready(); !r.Empty(); r = b.Ready() {
				b.Advance(r)
			}
		}
	}
	begun := func(b *bench) bool { return b.State().Final == 2 }
	heard := []Event{Synced{}, Members{}}

	b := begin(s, fifty)
	if runs(b, 4*time.Minute, 10*time.Minute-time.Second, heard...); begun(b) || b.observedSaved.For < fifty.For+8*observedEvery {
		t.Errorf("before its time, or it is not kept: %+v", b.observedSaved)
	}
	if runs(b, 14*time.Minute, 0); !begun(b) {
		t.Errorf("not when its time has come: %+v", b.observed)
	}
	if b = begin(s, fifty); true {
		runs(b, 4*time.Minute, 0, Synced{})
	}
	if b.observed.For != fifty.For {
		t.Errorf("before the ring has said who can be reached: %+v", b.observed)
	}
	if runs(b, 4*time.Minute, 20*time.Minute, Synced{}); begun(b) || b.observedSaved.For != 0 {
		t.Errorf("before the ring has said who can be reached: %+v", b.observed)
	}
	if b = begin(s, fifty); true {
		runs(b, 5*time.Hour, 59*time.Minute, heard...)
	}
	if begun(b) || b.observed.For != bundle.Duration(59*time.Minute) {
		t.Errorf("it did not run for hours: %+v", b.observed)
	}

	// Another node, which cannot be reached.
	other := bundle.NodeID{1}
	b = begin(s, fifty)
	c := b.docs.orders[2].Classes["kv"]
	c.Roster = append(c.Roster, other)
	b.docs.orders[2].Classes["kv"] = c
	b.noteProgress()
	b.newest.Note(other, view.Record{Node: other, Version: 2}, true)
	both := Members{Alive: map[bundle.NodeID]bool{other: true}}
	runs(b, 0, time.Minute, Synced{}, both)
	if b.observed.For != fifty.For+bundle.Duration(time.Minute) {
		t.Errorf("both can be reached: %+v", b.observed)
	}
	if runs(b, time.Minute, 4*time.Minute, Members{}); b.observed.For > fifty.For+bundle.Duration(time.Minute) || !strings.Contains(b.Finalizing().Reason, "reached") {
		t.Errorf("the time counts while one cannot be reached: %+v", b.observed)
	}
	if runs(b, 5*time.Minute, 2*time.Minute, Members{}); b.observed.For != 0 || b.observedSaved.For != 0 {
		t.Errorf("nobody knows what one does for long: %+v", b.observed)
	}

	crashed := s
	crashed.Final = 2
	b = begin(crashed, schedule.Observed{})
	b.decide()
	if !slices.ContainsFunc(b.machine.Todo().Actions, func(a upgrade.Action) bool { _, ok := a.(upgrade.Finish); return ok }) {
		t.Error("what is begun is not begun again")
	}
	back := begin(crashed, schedule.Observed{})
	back.docs.orders[2].Turn = 1
	back.decide()
	if st := back.State(); st.Turned.Release != 0 || back.noTurn == "" || back.NoWayBack("kv", 2) == "" {
		t.Errorf("it goes back: %+v, %q", st, back.noTurn)
	}
	if d := schedule.MayFinalize(schedule.FinalizeInput{Order: back.docs.orders[2]}); d.Now {
		t.Error("what is taken back is finalized")
	}
}

// TestFinalIsForOneself: what others say of their finalizing removes nothing that this node would
// need to go back.
func TestFinalIsForOneself(t *testing.T) {
	b := newBench(t, upgrade.State{Phase: upgrade.Current, Version: 9, Running: 9, Served: true, Step: 1})
	b.releases(1, 9, reversible)
	b.order(9)
	o, other := b.docs.orders[9], bundle.NodeID{1}
	o.FinalizeAfter = bundle.Duration(time.Hour)
	c := o.Classes["kv"]
	c.Roster = append(c.Roster, other)
	o.Classes["kv"] = c
	keeps := func(s upgrade.State) bool { return b.runs(s)[classRelease{"kv", 8}] }
	b.noteProgress()
	b.newest.Note(other, view.Record{Node: other, Version: 9, Final: 9}, true)
	if b.mayGoBack(9) || !keeps(b.State()) {
		t.Errorf("may go back %v, keeps what for %v", b.mayGoBack(9), keeps(b.State()))
	}
	if s := b.State(); true {
		if s.Final = 9; keeps(s) {
			t.Error("it is final here")
		}
	}
}

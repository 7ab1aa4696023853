package node

import (
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

// TestFinalAfterRestart: the time until a release is finalized goes on over a restart, whose
// agent does nothing before it has heard from a peer; a node that has begun says so, and begins
// again after a crash.
func TestFinalAfterRestart(t *testing.T) {
	since := time.Unix(1_800_000_000, 0).UTC()
	s := upgrade.State{Phase: upgrade.Current, Version: 2, Running: 2, Served: true, Step: 1, Rest: upgrade.Rest{Release: 2, Since: since.Add(-50 * time.Minute)}}
	finishes := func(s upgrade.State, synced bool, after time.Duration) (*bench, bool) {
		b := newBench(t, s)
		b.releases(1, 2, reversible)
		b.order(2)
		b.docs.orders[2].FinalizeAfter = bundle.Duration(time.Hour)
		b.meta.Expires = since.Add(24 * time.Hour)
		if synced {
			b.Step(b.now, Synced{})
		}
		b.Step(since.Add(after), Tick{})
		b.decide()
		for _, a := range b.machine.Todo().Actions {
			if _, ok := a.(upgrade.Finish); ok {
				return b, true
			}
		}
		return b, false
	}
	if _, does := finishes(s, true, 9*time.Minute); does {
		t.Error("before its time")
	}
	if _, does := finishes(s, false, 10*time.Minute); does {
		t.Error("before it has heard from a peer")
	}
	b, does := finishes(s, true, 10*time.Minute)
	if st := b.machine.State(); !does || st.Final != 2 {
		t.Errorf("not when its time has come: %+v", st)
	}
	lost := s
	lost.Rest = upgrade.Rest{}
	if b, does := finishes(lost, true, 10*time.Minute); does || !b.machine.State().Rest.Since.Equal(since.Add(10*time.Minute)) {
		t.Errorf("what is not known is not made up: %+v", b.machine.State().Rest)
	}
	crashed := s
	crashed.Rest, crashed.Final = upgrade.Rest{}, 2
	if _, does := finishes(crashed, false, 0); !does {
		t.Error("what was begun is not begun again")
	}
	back := newBench(t, crashed)
	back.releases(1, 2, reversible)
	back.order(2)
	back.docs.orders[2].Turn = 1
	back.decide()
	if st := back.State(); st.Turned.Release != 0 || back.noTurn == "" || back.NoWayBack("kv", 2) == "" {
		t.Errorf("it goes back: %+v, %q", st, back.noTurn)
	}
	if d := schedule.MayFinalize(schedule.FinalizeInput{Order: back.docs.orders[2]}); d.Now {
		t.Error("what is taken back is finalized")
	}
}

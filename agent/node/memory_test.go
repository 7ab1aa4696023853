package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// A journal that has lost its end would have the node make the live slot anew, which
// callers have written to.
func TestJournalBehindLiveSlot(t *testing.T) {
	s := upgrade.State{Step: 4, Phase: upgrade.Transforming, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Obeys: 2}
	clears := func(m Memory) bool {
		n, err := New(Config{Name: "n1", Class: "kv"}, m, time.Unix(1_800_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(n.Ready().Actions, func(a upgrade.Action) bool {
			x, ok := a.(upgrade.Transform)
			return ok && x.To == 2
		})
	}
	if !clears(Memory{State: &s, Slot: 1}) {
		t.Error("a transform under way does not go on, so this test shows nothing")
	}
	if clears(Memory{State: &s, Slot: 2}) {
		t.Error("the live slot is made anew")
	}
	if got := (Memory{State: &s, Slot: 1, Doubt: "the floor file is missing"}).state(); got.Phase != upgrade.RollingBack {
		t.Errorf("an attempt that may have ended since goes on: %+v", got)
	}
	got := Memory{State: &s, Slot: 2}.state()
	if got.Running != 2 || got.Obeys != 2 || got.Claims() != 1 {
		t.Errorf("goes on from %+v", got)
	}
}

// Where nothing names the live slot any more, the software that ran last tells it, or there
// is but one; else the node does not guess.
func TestSeek(t *testing.T) {
	settled := Floor{Promises: upgrade.Promises{Settled: 2}}
	turned := Floor{Promises: upgrade.Promises{Settled: 2, Turned: view.Turned{Release: 2, Turn: 1}}}
	journal := func(phase upgrade.Phase, running bundle.Version, path ...bundle.Version) *upgrade.State {
		return &upgrade.State{Phase: phase, Version: 1, Running: running, Served: true, Goal: 2, Path: path}
	}
	for _, c := range []struct {
		name   string
		m      Memory
		adopts bool
		slot   bundle.Version
		refuse string
		runs   bundle.Version // goes on with, where it does
	}{
		{"a new node", Memory{}, false, 0, "", 0},
		{"named", Memory{Slot: 1, Slots: []bundle.Version{1, 2}, Ran: 2}, false, 1, "", 1},
		{"the journal tells", Memory{State: journal(upgrade.Current, 1), Slots: []bundle.Version{1, 2}, Ran: 1}, false, 0, "", 1},
		{"new software was started, and not let in", Memory{State: journal(upgrade.Starting, 1, 2), Slots: []bundle.Version{1, 2}, Ran: 2}, false, 0, "", 1},
		{"the journal has lost its end", Memory{State: journal(upgrade.Transforming, 1, 2), Doubt: "lost", Slots: []bundle.Version{1, 2}, Ran: 2}, false, 2, "", 2},
		{"the journal may have lost its end, and nothing ran", Memory{State: journal(upgrade.Transforming, 1, 2), Doubt: "lost", Slots: []bundle.Version{1, 2}}, false, 0, "which of the slots [1 2] is live", 0},
		{"the journal may have lost its end, and there is one slot", Memory{State: journal(upgrade.Fetching, 1), Doubt: "lost", Slots: []bundle.Version{1}}, false, 0, "", 1},
		{"the slot of what ran is gone", Memory{State: journal(upgrade.Current, 1), Doubt: "lost", Slots: []bundle.Version{1, 2}, Ran: 3}, false, 0, "its state is gone", 0},
		{"the journal has lost that a release was taken back", Memory{State: journal(upgrade.Current, 2), Floor: turned, Doubt: "lost", Slots: []bundle.Version{1, 2}, Ran: 1}, false, 1, "", 1},
		{"the journal may have lost that a release was taken back, and nothing ran", Memory{State: journal(upgrade.Current, 2), Floor: turned, Doubt: "lost", Slots: []bundle.Version{1, 2}}, false, 0, "which of the slots [1 2] is live", 0},
		{"a release is taken back, and there is one slot", Memory{State: journal(upgrade.Current, 2), Floor: turned, Doubt: "lost", Slots: []bundle.Version{2}}, false, 0, "", 2},
		{"no journal, and what ran last", Memory{Floor: settled, Slots: []bundle.Version{1, 2, 3}, Ran: 2}, false, 2, "", 2},
		{"no journal, and one slot", Memory{Floor: settled, Slots: []bundle.Version{2}}, false, 2, "", 2},
		{"no journal, and several slots", Memory{Floor: settled, Slots: []bundle.Version{1, 2}}, true, 0, "which of the slots [1 2] is live", 0},
		{"nothing but a slot", Memory{Slots: []bundle.Version{2}}, false, 2, "", 2},
		{"a crash while software was adopted", Memory{Slots: []bundle.Version{1}}, true, 0, "", 0},
	} {
		err := c.m.Seek(c.adopts)
		if c.m.Slot != c.slot || (err == nil) != (c.refuse == "") || err != nil && !strings.Contains(err.Error(), c.refuse) {
			t.Errorf("%s: slot %d, %v", c.name, c.m.Slot, err)
		}
		if got := c.m.state(); err == nil && got.Running != c.runs {
			t.Errorf("%s: it goes on from %+v", c.name, got)
		}
		guessed := c.m.State == nil && c.m.Slot != 0 && !strings.HasPrefix(c.name, "named")
		if guessed != strings.Contains(c.m.doubt(), "is taken to be live") {
			t.Errorf("%s: doubt %q", c.name, c.m.doubt())
		}
	}
}

// A node whose disk may have lost what was written last says and begins nothing until
// a peer has told what it had said.
func TestDoubtfulWaitsForPeers(t *testing.T) {
	for _, m := range []Memory{{Doubt: "the floor file is missing"}, {Slot: 1}, {Slot: 2}} {
		s := at(1)
		if m.Doubt != "" || m.Slot == 2 {
			m.State = &s
		}
		b := newBench(t, at(1))
		n, err := New(b.cfg, m, b.now)
		if err != nil {
			t.Fatal(err)
		}
		b.Node = n
		b.releases(1, 3)
		b.record(b.key, func(r *view.Record) { r.Seq, r.Version = 9, 2 })
		b.ready()
		alarm := slices.ContainsFunc(b.Alarms(), func(a string) bool { return strings.Contains(a, "may be") })
		if b.own.Seq != 0 || b.State().Phase == upgrade.Fetching || !alarm {
			t.Errorf("%+v: before it has heard a peer it says record %d, and is %s; alarms %q", m.Doubt, b.own.Seq, b.State().Phase, b.Alarms())
		}
		b.Step(b.now, Synced{})
		b.ready()
		if b.own.Seq < 10 || b.own.Version < 2 {
			t.Errorf("%q: after that it says %+v", m.Doubt, b.own)
		}
	}
}

// What was wrong with the software when the agent ended is not taken for over by the
// next: nothing was heard of it since.
func TestUnwellOverRestart(t *testing.T) {
	b := newBench(t, at(2))
	b.record(b.key, func(r *view.Record) {
		r.Seq, r.Version, r.Running = 9, 2, 2
		r.Health = view.Health{State: view.HealthFailing, Reason: "its check fails"}
	})
	signed, _ := b.view.Signed(b.cfg.Self)
	s := at(2)
	n, err := New(b.cfg, Memory{State: &s, Records: []view.Signed{signed}}, b.now)
	if err != nil {
		t.Fatal(err)
	}
	if h := n.healthSaid(s); h.State != view.HealthFailing || h.Reason != "its check fails" {
		t.Errorf("after a restart of the agent it says %+v", h)
	}
	n.Step(b.now, SoftwareUp{Version: 2})
	n.Step(b.now.Add(steadyAfter), Tick{})
	if h := n.healthSaid(s); h.State != view.HealthWell {
		t.Errorf("well for long enough it says %+v", h)
	}
}

package schedule

import (
	"slices"
	"strings"
	"testing"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

func finalize(o *Order) (*Order, error) { return o.Finalize() }

// TestFinalized: no turn follows, it stays said, and agents of before refuse it by name.
func TestFinalized(t *testing.T) {
	o := testOrder(t, 3)
	final, err := o.Finalize()
	if err != nil || !final.Finalized || final.Format != FormatTurns || o.Finalized {
		t.Fatalf("%+v, %v", final, err)
	}
	if _, err := final.Finalize(); err == nil {
		t.Error("it is finalized again")
	}
	if _, err := final.Revert(nil); err == nil || !strings.Contains(err.Error(), "finalized") {
		t.Errorf("it is taken back: %v", err)
	}
	back, err := o.Revert(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := back.Finalize(); err == nil {
		t.Error("what is taken back is finalized")
	}
	back.Serial = final.Serial + 1
	if err := Successor(final, back); err == nil || !strings.Contains(err.Error(), "for good") {
		t.Errorf("an order that takes it back follows: %v", err)
	}
	later := *final
	later.Serial, later.Turn = final.Serial+1, 2
	if err := Successor(final, &later); err == nil || !strings.Contains(err.Error(), "no turn follows") {
		t.Errorf("a later turn follows: %v", err)
	}
	if later.Turn = 1; later.Validate() == nil {
		t.Error("an order is finalized and takes its release back")
	}
	for _, change := range []func(*Order) (*Order, error){(*Order).Pause, (*Order).Abort} {
		if next, err := change(final); err != nil || !next.Finalized {
			t.Errorf("%+v, %v", next, err)
		}
	}
}

// TestUnsettled: only what nodes have said counts, and that they are where the order leads.
func TestUnsettled(t *testing.T) {
	o := testOrder(t, 3)
	roster := o.Classes["kv"].Roster
	said := map[bundle.NodeID]view.Record{roster[0]: {Version: 2}, roster[1]: {Version: 1}}
	lookup := func(id bundle.NodeID) (view.Record, bool) { r, ok := said[id]; return r, ok }
	if left := o.Unsettled(lookup); !slices.Equal(left, roster[1:]) {
		t.Errorf("left: %v", left)
	}
	o, err := o.Skip("kv", roster[2])
	if err != nil {
		t.Fatal(err)
	}
	if said[roster[1]] = (view.Record{Version: 2}); len(o.Unsettled(lookup)) > 0 {
		t.Error("a node that is skipped is waited for")
	}
}

// TestJoinFinalized: where one operator finalizes what another takes back, all go forward again.
func TestJoinFinalized(t *testing.T) {
	back := func(o *Order) (*Order, error) { return o.Revert(nil) }
	_, one, other := halves(t, finalize, back)
	for _, pair := range [][2]*Order{{one, other}, {other, one}} {
		joined, err := Join(pair[0], pair[1], digestOf(one), digestOf(other))
		if err != nil {
			t.Fatal(err)
		}
		if !joined.Finalized || joined.Turn != 2 {
			t.Errorf("joined: turn %d, finalized %v", joined.Turn, joined.Finalized)
		}
		for _, half := range pair {
			if err := JoinSuccessor(half, joined); err != nil {
				t.Error(err)
			}
		}
	}
	// A peer that has not heard of what came last in its half takes the joined order, too.
	later, err := one.Pause()
	if err != nil {
		t.Fatal(err)
	}
	joined, err := Join(later, other, digestOf(later), digestOf(other))
	if err != nil {
		t.Fatal(err)
	}
	if err := Successor(one, joined); err != nil {
		t.Error(err)
	}
}

// TestMayFinalize: the time counts from when all are known to be at the release and well, and
// nothing that is not known, or not over, or forbids it, lets it pass.
func TestMayFinalize(t *testing.T) {
	o := testOrder(t, 3)
	o.FinalizeAfter, o.Format = bundle.Duration(time.Hour), FormatFinalizeAfter
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	roster, start := o.Classes["kv"].Roster, time.Unix(1e9, 0)
	at := view.Record{Version: 2, Health: view.Health{State: view.HealthWell}}
	all := func() map[bundle.NodeID]view.Record {
		return map[bundle.NodeID]view.Record{roster[0]: at, roster[1]: at, roster[2]: at}
	}
	now := start.Add(time.Hour)
	hour := Observed{Release: 2, Serial: o.Serial, For: bundle.Duration(time.Hour), Seen: now}
	ask := func(o *Order, said map[bundle.NodeID]view.Record, change func(*FinalizeInput)) Finalizing {
		in := FinalizeInput{Order: o, Observed: hour, Last: now, Now: now, Synced: true}
		in.Observed.Serial = o.Serial
		in.Tally = NewTally(o, func(id bundle.NodeID) (view.Record, bool) { r, ok := said[id]; return r, ok })
		if change != nil {
			change(&in)
		}
		return MayFinalize(in)
	}
	if f := ask(o, all(), nil); !f.Now || !f.Counts || !f.At.Equal(now) || f.Observed != hour {
		t.Errorf("all is as it must be: %+v", f)
	}
	later := func(d time.Duration) func(*FinalizeInput) { return func(in *FinalizeInput) { in.Now = now.Add(d) } }
	restarted := func(d time.Duration) func(*FinalizeInput) {
		return func(in *FinalizeInput) { in.Now, in.Last = now.Add(d), time.Time{} }
	}
	for name, c := range map[string]struct {
		change func(*FinalizeInput)
		counts bool
		has    time.Duration
		reason string
	}{
		"a second later":           {later(time.Second), true, time.Hour + time.Second, ""},
		"it did not look for long": {later(finalizeLapse), true, time.Hour + finalizeStep, ""},
		"it slept":                 {later(finalizeLapse + 1), true, finalizeStep, ""},
		"it has just started":      {restarted(finalizeLapse), true, time.Hour, ""},
		"it did not run for long":  {restarted(finalizeLapse + 1), true, 0, ""},
		"its clock was set back":   {restarted(-2 * finalizeLapse), true, 0, ""},
		"of an order before":       {func(in *FinalizeInput) { in.Observed.Serial-- }, true, 0, ""},
		"no exchange with a peer":  {func(in *FinalizeInput) { in.Synced = false }, false, time.Hour, "peer"},
		"one cannot be reached":    {func(in *FinalizeInput) { in.Unreachable = 1 }, false, time.Hour, "reached"},
		"nor for long":             {func(in *FinalizeInput) { in.Unreachable, in.Now = 1, now.Add(finalizeLapse+1) }, false, 0, "reached"},
		"no exchange for long":     {func(in *FinalizeInput) { in.Synced, in.Now = false, now.Add(finalizeLapse+1) }, false, 0, "peer"},
		"expired":                  {func(in *FinalizeInput) { in.Expired = true }, true, time.Hour, "expired"},
		"in conflict":              {func(in *FinalizeInput) { in.Conflict = true }, true, time.Hour, "contradicts"},
		"a newer order is signed":  {func(in *FinalizeInput) { in.Pending = true }, true, time.Hour, "newer order"},
	} {
		f := ask(o, all(), c.change)
		if f.Counts != c.counts || f.Observed.For != bundle.Duration(c.has) || (c.reason == "") != (f.Reason == "") || !strings.Contains(f.Reason, c.reason) {
			t.Errorf("%s: %+v", name, f)
		}
		if f.Now != (c.reason == "" && c.has >= time.Hour) || f.At.IsZero() != (c.reason != "") {
			t.Errorf("%s: now %v, on %s", name, f.Now, f.At)
		}
	}
	for name, rec := range map[string]*view.Record{
		"nothing is known": nil,
		"it is before":     {Version: 1},
		"it has left":      {Version: 1, Left: true},
		"it is not well":   {Version: 2, Health: view.Health{State: view.HealthFailing}},
		"its soak failed":  {Version: 2, Health: view.Health{State: view.HealthWell, Failed: view.Ended{Release: 2, Count: 1}}},
	} {
		said := all()
		if delete(said, roster[1]); rec != nil {
			said[roster[1]] = *rec
		}
		if f := ask(o, said, nil); f.Now || f.Counts || f.Observed != (Observed{}) || f.Reason == "" {
			t.Errorf("of one %s: %+v", name, f)
		}
	}
	for name, change := range map[string]func(*Order) (*Order, error){
		"paused": (*Order).Pause, "aborted": (*Order).Abort, "finalized": (*Order).Finalize,
		"taken back": func(o *Order) (*Order, error) { return o.Revert(nil) },
	} {
		next, err := change(o)
		if err != nil {
			t.Fatal(err)
		}
		if f := ask(next, all(), nil); f.Now || f.Counts || f.Observed != (Observed{}) || f.Reason == "" {
			t.Errorf("%s: %+v", name, f)
		}
	}
	skipped, err := o.Skip("kv", roster[1])
	if err != nil {
		t.Fatal(err)
	}
	said := all()
	if delete(said, roster[1]); !ask(skipped, said, nil).Now {
		t.Error("a node that is skipped is waited for")
	}
	if n := NewTally(skipped, func(bundle.NodeID) (view.Record, bool) { return at, true }).Unreachable(func(id bundle.NodeID) bool { return id == roster[0] }); n != 1 {
		t.Errorf("%d cannot be reached; one can, and one is skipped", n)
	}
	longer := *o
	longer.Serial, longer.FinalizeAfter = o.Serial+1, 2*o.FinalizeAfter
	if err := Successor(o, &longer); err == nil || !strings.Contains(err.Error(), "finalize_after") {
		t.Errorf("the time changes: %v", err)
	}
}

// TestFinalGoesNotBack: who knows of a node that has finalized a release by its own word goes
// down by no order that takes it back, and says what leads on.
func TestFinalGoesNotBack(t *testing.T) {
	o := testOrder(t, 3)
	o.FinalizeAfter, o.Format = bundle.Duration(time.Hour), FormatFinalizeAfter
	back, err := o.Revert(nil)
	if err != nil {
		t.Fatal(err)
	}
	roster := back.Classes["kv"].Roster
	said := map[bundle.NodeID]view.Record{}
	for _, id := range roster {
		said[id] = view.Record{Node: id, Version: 2, Turned: view.Turned{Release: 2, Turn: 1}}
	}
	in := Input{Self: roster[0], Class: "kv", Order: back, Synced: true, Lookup: func(id bundle.NodeID) (view.Record, bool) { r, ok := said[id]; return r, ok }}
	if d := Decide(in); !d.Go {
		t.Fatalf("nobody has finalized it: %+v", d)
	}
	r := said[roster[2]]
	r.Final = 2
	said[roster[2]] = r
	if d := Decide(in); d.Go || d.Reason.Code != CodeFinal || d.Reason.Command != "moult revert --undo 2" {
		t.Errorf("%+v", d)
	}
	without := *back
	without.FinalizeAfter, in.Order = 0, &without
	if d := Decide(in); !d.Go {
		t.Errorf("one says so of a release that does not ask for it: %+v", d)
	}
	if s := Summary(&without, in.Lookup); s.State == RolloutHeld {
		t.Errorf("one says so of a release that does not ask for it: %+v", s)
	}
	in.Order = back
	if skipped, err := back.Skip("kv", roster[2]); err != nil {
		t.Fatal(err)
	} else if in.Order = skipped; !Decide(in).Go {
		t.Error("who is skipped holds others up")
	}
	if s := Summary(back, in.Lookup); s.State != RolloutHeld || !strings.Contains(s.Reason, "moult revert --undo 2") {
		t.Errorf("%+v", s)
	}
}

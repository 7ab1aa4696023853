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
	ask := func(o *Order, said map[bundle.NodeID]view.Record, change func(*FinalizeInput)) Finalizing {
		in := FinalizeInput{Order: o, Since: start, Now: start.Add(time.Hour), Synced: true}
		in.Tally = NewTally(o, func(id bundle.NodeID) (view.Record, bool) { r, ok := said[id]; return r, ok })
		if change != nil {
			change(&in)
		}
		return MayFinalize(in)
	}
	if f := ask(o, all(), nil); !f.Now || !f.Since.Equal(start) || !f.At.Equal(start.Add(time.Hour)) {
		t.Errorf("all is as it must be: %+v", f)
	}
	for name, change := range map[string]func(*FinalizeInput){
		"a second early":          func(in *FinalizeInput) { in.Now = in.Now.Add(-time.Second) },
		"no exchange with a peer": func(in *FinalizeInput) { in.Synced = false },
		"expired":                 func(in *FinalizeInput) { in.Expired = true },
		"in conflict":             func(in *FinalizeInput) { in.Conflict = true },
		"a newer order is signed": func(in *FinalizeInput) { in.Pending = true },
		"seen just now":           func(in *FinalizeInput) { in.Since = time.Time{} },
		"the clock was set back":  func(in *FinalizeInput) { in.Now = start.Add(-time.Hour) },
	} {
		if f := ask(o, all(), change); f.Now || f.At.IsZero() {
			t.Errorf("%s: %+v", name, f)
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
		if f := ask(o, said, nil); f.Now || !f.Since.IsZero() || f.Reason == "" {
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
		if f := ask(next, all(), nil); f.Now || !f.Since.IsZero() || f.Reason == "" {
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
	if skipped, err := back.Skip("kv", roster[2]); err != nil {
		t.Fatal(err)
	} else if in.Order = skipped; !Decide(in).Go {
		t.Error("who is skipped holds others up")
	}
	if s := Summary(back, in.Lookup); s.State != RolloutHeld || !strings.Contains(s.Reason, "moult revert --undo 2") {
		t.Errorf("%+v", s)
	}
}

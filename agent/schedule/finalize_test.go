package schedule

import (
	"slices"
	"strings"
	"testing"

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

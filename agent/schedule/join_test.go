package schedule

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"moult/gossip/view"
	"moult/store/bundle"
)

// halves returns an order, and what two operators have made of it at once.
func halves(t *testing.T, a, b func(*Order) (*Order, error)) (old, one, other *Order) {
	t.Helper()
	old = testOrder(t, 4)
	one, err := a(old)
	if err != nil {
		t.Fatal(err)
	}
	if other, err = b(old); err != nil {
		t.Fatal(err)
	}
	if Successor(one, other) == nil || Successor(other, one) == nil || digestOf(one) == digestOf(other) {
		t.Fatal("they do not contradict each other, so this shows nothing")
	}
	return old, one, other
}

func (o *Order) of(f func(*Order, bundle.Class, bundle.NodeID) (*Order, error), i int) (*Order, error) {
	return f(o, "kv", o.Classes["kv"].Roster[i])
}

// TestJoin: the joined order has what both halves give each node, is paused, and is taken in
// place of either, of the one that both come from, and of nothing else.
func TestJoin(t *testing.T) {
	retry := func(i int) func(*Order) (*Order, error) {
		return func(o *Order) (*Order, error) { return o.of((*Order).Retry, i) }
	}
	old, one, other := halves(t, retry(1), retry(2))
	joined, err := Join(one, other, digestOf(one), digestOf(other))
	if err != nil {
		t.Fatal(err)
	}
	c := joined.Classes["kv"]
	if joined.Format != FormatJoined || joined.State != StatePaused || joined.Serial != old.Serial+2 || len(c.Roster) != 6 || c.places(c.Roster[1]) != 2 || c.places(c.Roster[2]) != 2 {
		t.Errorf("joined: %+v", joined)
	}
	data, err := MarshalOrder(joined)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseOrder(data); err != nil || !again.Joins(digestOf(one)) || !again.Joins(digestOf(other)) || again.Joins(digestOf(old)) {
		t.Errorf("read back: %+v, %v", again, err)
	}
	if err := Successor(old, joined); err != nil {
		t.Error(err)
	}
	for _, half := range []*Order{one, other} {
		if err := JoinSuccessor(half, joined); err != nil {
			t.Error(err)
		}
	}
	swapped, err := Join(other, one, digestOf(other), digestOf(one))
	if err != nil || len(swapped.Classes["kv"].Roster) != 6 {
		t.Errorf("the other way round: %+v, %v", swapped, err)
	}
	resumed, err := joined.Resume()
	if err != nil || resumed.Joined == nil || resumed.Joined.Open || JoinSuccessor(other, resumed) != nil {
		t.Errorf("resumed: %+v, %v", resumed, err)
	}
	forgets := *resumed
	forgets.Joined, forgets.Format, forgets.Serial = nil, FormatVersion, resumed.Serial+1
	if Successor(resumed, &forgets) == nil {
		t.Error("what was joined may be left out afterwards")
	}
	running := *joined
	running.State = StateRunning
	if err := running.Validate(); err == nil {
		t.Error("an order that joins two runs at once")
	}
	another := *other
	another.Manifest = bundle.Sum([]byte("another"))
	if _, err := Join(one, &another, digestOf(one), digestOf(&another)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "cannot be joined") {
		t.Errorf("orders for different contents: %v", err)
	}
}

// TestJoinWaves: ranks of one half are of no meaning in the other's list.
func TestJoinWaves(t *testing.T) {
	ids := func(names ...string) (list []bundle.NodeID) {
		for _, name := range names {
			list = append(list, idOf(name))
		}
		return list
	}
	some, more := []Wave{{1, 10}, {3, 30}}, []Wave{{2, 20}, {3, 5}, {4, 7}}
	abcd := ids("a", "b", "c", "d")
	for _, c := range []struct {
		name string
		a, b ClassOrder
		want []Wave
	}{
		{"alike", ClassOrder{Waves: some, Roster: abcd}, ClassOrder{Waves: some, Roster: ids("a", "b", "c", "e")}, some},
		{"other nodes", ClassOrder{Waves: some, Roster: abcd}, ClassOrder{Waves: some, Roster: ids("b", "a", "c")}, []Wave{{1, 30}}},
		{"other waves", ClassOrder{Waves: some, Roster: abcd}, ClassOrder{Waves: more, Roster: abcd}, []Wave{{1, 30}}},
		{"the first alone", ClassOrder{Waves: more, Roster: abcd}, ClassOrder{}, more},
		{"the other alone", ClassOrder{Canary: 1, Soak: 1}, ClassOrder{Waves: more, Roster: abcd}, []Wave{{2, 20}}},
	} {
		c.a.Strategy, c.b.Strategy = bundle.StrategyRolling, bundle.StrategyRolling
		got, err := joinClass(c.a, c.b)
		if err != nil || !slices.Equal(got.Waves, c.want) || got.Canary != 0 || got.Soak != 0 {
			t.Errorf("%s: %v, canary %d for %v, %v, want %v", c.name, got.Waves, got.Canary, got.Soak, err, c.want)
		}
	}
}

// TestJoinSuccessorRefuses: an order that takes from a half what it had given a node is
// taken by nobody who has that half.
func TestJoinSuccessorRefuses(t *testing.T) {
	skip := func(o *Order) (*Order, error) { return o.of((*Order).Skip, 1) }
	retry := func(o *Order) (*Order, error) { return o.of((*Order).Retry, 1) }
	_, one, other := halves(t, skip, retry)
	joined, err := Join(one, other, digestOf(one), digestOf(other))
	if err != nil {
		t.Fatal(err)
	}
	c := joined.Classes["kv"]
	if id := c.Roster[1]; c.places(id) != 2 || c.attempts(id) != 0 {
		t.Errorf("a node that one operator says is gone has %d places and %d attempts", c.places(id), c.attempts(id))
	}
	for name, f := range map[string]func(o *Order, c *ClassOrder){
		"a place less":     func(_ *Order, c *ClassOrder) { c.Roster = c.Roster[:len(c.Roster)-1]; c.Skipped = c.Skipped[:1] },
		"a skip less":      func(_ *Order, c *ClassOrder) { c.Skipped = nil },
		"half a skip":      func(_ *Order, c *ClassOrder) { c.Skipped = c.Skipped[:1] },
		"not later":        func(o *Order, _ *ClassOrder) { o.Serial = other.Serial },
		"another release":  func(o *Order, _ *ClassOrder) { o.Manifest = bundle.Sum([]byte("x")) },
		"another strategy": func(_ *Order, c *ClassOrder) { c.Strategy = bundle.StrategyManual },
	} {
		bad := *joined
		c := joined.Classes["kv"]
		c.Roster, c.Skipped = slices.Clone(c.Roster), slices.Clone(c.Skipped)
		f(&bad, &c)
		bad.Classes = map[bundle.Class]ClassOrder{"kv": c}
		if JoinSuccessor(one, &bad) == nil && JoinSuccessor(other, &bad) == nil {
			t.Errorf("%s: it is taken in place of both halves", name)
		}
	}
}

// TestUnjoined: only who says that it is up, and has what was joined, is by neither half.
func TestUnjoined(t *testing.T) {
	o := testOrder(t, 1)
	id := o.Classes["kv"].Roster[0]
	for _, c := range []struct {
		name  string
		r     view.Record
		known bool
		up    bool
	}{
		{"nothing is known", view.Record{}, false, false},
		{"older metadata", view.Record{Phase: "waiting", Trust: view.Heads{Timestamp: 6}}, true, false},
		{"down", view.Record{Phase: "transforming", Trust: view.Heads{Timestamp: 7}}, true, false},
		{"rolling back", view.Record{Phase: view.RollingBack, Trust: view.Heads{Timestamp: 7}}, true, false},
		{"being probed", view.Record{Phase: "probing", Trust: view.Heads{Timestamp: 7}}, true, false},
		{"up, by an older moult", view.Record{Phase: "waiting", Trust: view.Heads{Timestamp: 7}, Reads: 1}, true, true},
		{"another line with this number", view.Record{Phase: "waiting", Trust: view.Heads{Timestamp: 8}, Reads: 2}, true, false},
		{"another joined order", view.Record{Phase: "waiting", Trust: view.Heads{Timestamp: 7}, Joined: bundle.Sum(nil), Reads: 2}, true, false},
		{"down by another, and has it", view.Record{Phase: "transforming", Joined: digestOf(o), Reads: 2}, true, false},
		{"up, and has it", view.Record{Phase: "waiting", Joined: digestOf(o), Reads: 2}, true, true},
	} {
		left := Unjoined(o, digestOf(o), 7, func(bundle.NodeID) (view.Record, bool) { return c.r, c.known })
		if (len(left) == 0) != c.up {
			t.Errorf("%s: %v may be down", c.name, left)
		}
	}
	skipped, err := o.Skip("kv", id)
	if err != nil {
		t.Fatal(err)
	}
	if left := Unjoined(skipped, digestOf(skipped), 7, func(bundle.NodeID) (view.Record, bool) { return view.Record{}, false }); len(left) > 0 {
		t.Errorf("a node that is skipped is waited for: %v", left)
	}
}

// TestJoinTurns: where one operator takes the release back while another changes its
// rollout, the joined order takes it back, with one place for each node that neither has
// skipped; and the order of the next release follows that, and the half of the earlier turn.
func TestJoinTurns(t *testing.T) {
	skip := func(o *Order) (*Order, error) { return o.of((*Order).Skip, 3) }
	back := func(o *Order) (*Order, error) { return o.Revert(nil) }
	old, one, other := halves(t, back, func(o *Order) (*Order, error) {
		next, err := o.of((*Order).Retry, 1)
		if err != nil {
			return nil, err
		}
		return skip(next)
	})
	for _, pair := range [][2]*Order{{one, other}, {other, one}} {
		joined, err := Join(pair[0], pair[1], digestOf(one), digestOf(other))
		if err != nil {
			t.Fatal(err)
		}
		c := joined.Classes["kv"]
		if !joined.Back() || joined.State != StatePaused || len(c.Roster) != 4 || c.attempts(old.Classes["kv"].Roster[3]) != 0 || c.attempts(old.Classes["kv"].Roster[1]) != 1 {
			t.Errorf("joined: %+v", joined)
		}
		for _, half := range pair {
			if err := JoinSuccessor(half, joined); err != nil {
				t.Error(err)
			}
		}
		m := &bundle.Manifest{Version: old.Release + 1, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1"}}}}
		next, err := Instantiate(m, bundle.Sum([]byte("next")), joined, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range []*Order{joined, other} {
			if err := Follows(o, next); err != nil {
				t.Error(err)
			}
		}
		if next.PreviousTurn = 0; Follows(one, next) == nil {
			t.Error("an order that knows nothing of the turn follows it")
		}
	}
}

package node

import (
	"slices"
	"strings"
	"testing"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// reversible gives a release the way back.
func reversible(v bundle.Version, cu *bundle.ClassUpgrade) {
	if v > 1 {
		cu.Transform.Reverse = &bundle.Reverse{}
	}
	cu.Artifacts = []bundle.Artifact{{Digest: softwareOf(v)}}
}

func softwareOf(v bundle.Version) bundle.Digest { return bundle.Sum([]byte{byte(v)}) }

// takenBack is a node in a state, which knows that release 2 is taken back.
func takenBack(t *testing.T, s upgrade.State) *bench {
	b := newBench(t, s)
	b.releases(1, 2, reversible)
	b.order(2)
	b.docs.orders[2].Turn = 1
	return b
}

// A node that cannot go back, or has said that it had, and has not, tells the operator.
func TestCannotGoBack(t *testing.T) {
	told := func(b *bench, want string) {
		t.Helper()
		b.ready()
		alarm := slices.ContainsFunc(b.Alarms(), func(a string) bool { return strings.Contains(a, want) && strings.Contains(a, "moult inject") })
		if alarm != (want != "") || want != "" && b.State().Phase != upgrade.Current {
			t.Errorf("%q: it is %s, and alarms are %q", want, b.State().Phase, b.Alarms())
		}
	}
	b := takenBack(t, at(2))
	told(b, "")
	if s := b.State(); s.Reverts != 2 {
		t.Errorf("it does not go back, so this shows nothing: %+v", s)
	}
	b = takenBack(t, at(2))
	b.frozen[2] = bundle.Digest{}
	told(b, "signed twice")
	s := at(2)
	s.Obeys, s.Turned = 2, view.Turned{Release: 2, Turn: 1, Done: true}
	told(takenBack(t, s), "had taken release 2 back, and runs it")
}

// Who has gone back, or lets callers in there, speaks the version before, whatever it claims.
func TestStandsBelowItsClaim(t *testing.T) {
	for _, back := range []func(*view.Record){
		func(r *view.Record) { r.At, r.Running, r.Turned.Done = 1, 1, true },
		func(r *view.Record) { r.Phase, r.Running = "probing", 1 },
	} {
		b := newBench(t, at(2))
		b.releases(1, 2)
		id := b.record(nil, func(r *view.Record) { r.Version, r.Running = 2, 2 })
		b.order(2)
		r, _ := b.view.Get(id)
		b.noteDoneAt(r, 2)
		if got := b.ready().External; got != 2 {
			t.Fatalf("before that, callers from outside count as version %d", got)
		}
		r.Turned = view.Turned{Release: 2, Turn: 1}
		back(&r)
		if got := r.Stands(); got != 1 {
			t.Errorf("%+v stands at version %d", r, got)
		}
		if b.noteDoneAt(r, 2); len(b.doneAt) != 0 {
			t.Error("its soak goes on though it has gone back")
		}
		b = newBench(t, at(2))
		b.releases(1, 2)
		b.record(nil, func(r *view.Record) {
			r.Version, r.Turned = 2, view.Turned{Release: 2, Turn: 1}
			back(r)
		})
		if got := b.ready().External; got != 1 {
			t.Errorf("%+v: callers from outside count as version %d", r, got)
		}
	}
}

// What the nodes would go back to is kept, however many releases came after it.
func TestKeepsWhatToGoBackTo(t *testing.T) {
	const newest = 2 + keptReleases
	for _, reverse := range []bool{true, false} {
		b := newBench(t, at(newest))
		b.releases(1, 1, reversible)
		b.releases(newest, newest, reversible)
		if !reverse {
			b.releases(newest, newest, func(v bundle.Version, cu *bundle.ClassUpgrade) { cu.Transform.Reverse = nil })
		}
		b.order(newest)
		if keeps := slices.Contains(b.KeptFiles(b.State(), nil), softwareOf(1)); keeps != reverse {
			t.Errorf("the release has a way back: %v, and what is there is kept: %v", reverse, keeps)
		}
	}
}

// An order that turns comes into force, and is gone by, only where that of the next release
// says that it comes after it: who goes by the next one does not wait for the others.
func TestTurnBesideTheNextOrder(t *testing.T) {
	digest := func(word string) bundle.Digest { return bundle.Sum([]byte(word)) }
	begin := func(named ...bundle.Version) (b *bench, turned, next *schedule.Order) {
		b = newBench(t, at(2))
		b.releases(1, 3, reversible)
		b.order(2)
		first := b.docs.orders[2]
		first.Manifest, first.Serial, first.State = digest("two"), 1, schedule.StateRunning
		b.docs.bound[2] = digest("2.1")
		o := *first
		o.Serial, o.Turn = 2, 1
		x := *first
		x.Release, x.Previous, x.Manifest = 3, 2, digest("three")
		b.meta.Releases = map[bundle.Version]trust.Ref{2: {Digest: digest("two")}, 3: {Digest: digest("three")}}
		b.meta.Orders = map[bundle.Version]trust.Ref{2: {Digest: digest("2.2")}}
		for _, v := range named {
			b.meta.Orders[v] = trust.Ref{Digest: digest("3.1")}
		}
		return b, &o, &x
	}
	arrives := func(b *bench, word string, o *schedule.Order) {
		b.docs.arrived[digest(word)] = o
		b.takeOrders()
	}
	for _, turnFirst := range []bool{true, false} {
		for _, previous := range []int{0, 1} {
			b, turned, next := begin(3)
			next.PreviousTurn = previous
			if turnFirst {
				if err := b.JudgeOrder(b.meta, 2, turned, digest("2.2")); err == nil || !strings.Contains(err.Error(), "try again") {
					t.Errorf("handed in before the order of release 3 has arrived: %v", err)
				}
				arrives(b, "2.2", turned)
				if b.docs.orders[2].Turn != 0 || len(b.Alarms()) > 0 {
					t.Errorf("before the order of release 3 has arrived, turn %d is in force, alarms %q", b.docs.orders[2].Turn, b.Alarms())
				}
				arrives(b, "3.1", next)
			} else {
				arrives(b, "3.1", next)
				arrives(b, "2.2", turned)
			}
			if b.docs.orders[2].Turn != previous || b.docs.orders[3] == nil || (len(b.Alarms()) == 0) != (previous == 1) {
				t.Errorf("release 3 comes after turn %d, and turn %d is in force, alarms %q", previous, b.docs.orders[2].Turn, b.Alarms())
			}
		}
	}
	for _, previous := range []int{0, 1} {
		b, turned, next := begin()
		next.PreviousTurn = previous
		arrives(b, "2.2", turned)
		if b.docs.orders[2].Turn != 1 || b.OrderPending(2) {
			t.Fatal("it does not go by turn 1, so this shows nothing")
		}
		b.meta.Orders[3] = trust.Ref{Digest: digest("3.1")}
		if !b.OrderPending(2) {
			t.Error("it goes back, though the order of release 3 may be none that comes after that")
		}
		arrives(b, "3.1", next)
		if b.OrderPending(2) != (previous == 0) {
			t.Errorf("release 3 comes after turn %d, and it waits: %v", previous, b.OrderPending(2))
		}
		if mend := "publish the next release, and inject it"; previous == 0 && !slices.ContainsFunc(b.Alarms(), func(a string) bool { return strings.Contains(a, mend) && !strings.Contains(a, "moult retry") }) {
			t.Errorf("what mends it: %q", b.Alarms())
		}
	}
}

// A release that is handed in without an order hides none that is on its way back, or has gone
// forward again, and is not where that leads: a claim is never lowered.
func TestRollingInTurns(t *testing.T) {
	for _, c := range []struct {
		turn    int
		aborted bool
		done    bool
		want    bundle.Version
	}{{0, false, false, 3}, {1, false, false, 2}, {1, false, true, 2}, {1, true, false, 2}, {2, false, false, 2}, {2, false, true, 3}, {2, true, false, 3}} {
		b := newBench(t, at(1))
		b.releases(1, 3, reversible)
		b.order(2)
		b.meta.Releases = map[bundle.Version]trust.Ref{3: {}}
		o := b.docs.orders[2]
		if o.Turn = c.turn; c.aborted {
			o.State = schedule.StateAborted
		}
		id := b.record(nil, func(r *view.Record) {
			r.Version, r.At, r.Running, r.Turned = 2, 1, 1, view.Turned{Release: 2, Turn: c.turn, Done: c.done}
			if c.turn == 0 {
				r.At, r.Turned = 2, view.Turned{}
			}
		})
		o.Classes["kv"] = schedule.ClassOrder{Roster: []bundle.NodeID{id}, MaxUnavailable: 1}
		if got := b.Rolling(); got != c.want {
			t.Errorf("%+v: release %d is on its way", c, got)
		}
	}
}

// Where nodes would go back to, and what an operator has done with that.
func TestBackTo(t *testing.T) {
	for name, c := range map[string]struct {
		change func(before, last *schedule.Order)
		doubt  string
	}{
		"good":                             {func(_, _ *schedule.Order) {}, ""},
		"taken back":                       {func(before, _ *schedule.Order) { before.Turn = 1 }, "was taken back itself"},
		"taken back, by the next one":      {func(_, last *schedule.Order) { last.Previous, last.PreviousTurn = 2, 3 }, "was taken back itself"},
		"taken back, and forward again":    {func(before, last *schedule.Order) { before.Turn, last.Previous, last.PreviousTurn = 2, 2, 2 }, ""},
		"aborted":                          {func(before, _ *schedule.Order) { before.State = schedule.StateAborted }, "was aborted"},
		"another before it was taken back": {func(_, last *schedule.Order) { last.Previous, last.PreviousTurn = 1, 1 }, ""},
	} {
		b := newBench(t, at(3))
		b.releases(1, 3, reversible)
		b.order(2)
		b.order(3)
		c.change(b.docs.orders[2], b.docs.orders[3])
		if to, doubt := b.BackTo("kv", 3); to != 2 || doubt != c.doubt {
			t.Errorf("%s: to release %d, which %q; want release 2, which %q", name, to, doubt, c.doubt)
		}
	}
	b := newBench(t, at(2))
	b.releases(1, 2)
	b.order(2)
	if to, doubt := b.BackTo("kv", 2); to != 0 || doubt != "" {
		t.Errorf("without a way back: to release %d, which %q", to, doubt)
	}
}

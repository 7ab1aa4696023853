package schedule

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"moult/gossip/view"
	"moult/store/bundle"
)

func testOrder(t testing.TB, n int) *Order {
	t.Helper()
	m := &bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {
		Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "10%"},
	}}}
	var nodes []Candidate
	for i := range n {
		nodes = append(nodes, Candidate{ID: idOf(fmt.Sprint("n", i)), Class: "kv", Reachable: true})
	}
	o, err := Instantiate(m, bundle.Sum([]byte("manifest")), nil, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *Order) edit(f func(c *ClassOrder)) *Order {
	next := *o
	c := o.Classes["kv"]
	c.Roster, c.Skipped, c.Started = slices.Clone(c.Roster), slices.Clone(c.Skipped), slices.Clone(c.Started)
	f(&c)
	next.Classes = map[bundle.Class]ClassOrder{"kv": c}
	return &next
}

func TestValidateRefuses(t *testing.T) {
	o := testOrder(t, 3)
	again := o.edit(func(c *ClassOrder) { c.Roster = append(c.Roster, c.Roster[0]) })
	with := func(f func(*Order)) *Order { next := *o; f(&next); return &next }
	for want, bad := range map[string]*Order{
		"format":          with(func(o *Order) { o.Format = 0 }),
		"release":         with(func(o *Order) { o.Release = 0 }),
		"serial":          with(func(o *Order) { o.Serial = 0 }),
		"manifest":        with(func(o *Order) { o.Manifest = bundle.Digest{} }),
		"previous":        with(func(o *Order) { o.Previous = 2 }),
		"state":           with(func(o *Order) { o.State = "walking" }),
		"strategy":        o.edit(func(c *ClassOrder) { c.Strategy = "random" }),
		"max_unavailable": o.edit(func(c *ClassOrder) { c.MaxUnavailable = 0 }),
		"canary":          o.edit(func(c *ClassOrder) { c.Canary = -1 }),
		"soak":            o.edit(func(c *ClassOrder) { c.Soak = -1 }),
		"failure_max":     o.edit(func(c *ClassOrder) { c.FailureMax = -1 }),
		"skipped":         o.edit(func(c *ClassOrder) { c.Skipped = []int{3} }),
		"rising":          o.edit(func(c *ClassOrder) { c.Skipped = []int{1, 1} }),
		"earlier one":     again.edit(func(c *ClassOrder) { c.Skipped = []int{3} }),
		"started":         o.edit(func(c *ClassOrder) { c.Started = []int{0} }),
		"no index":        o.edit(func(c *ClassOrder) { c.Strategy, c.Started = bundle.StrategyManual, []int{7} }),
		"after its place": again.edit(func(c *ClassOrder) { c.Strategy, c.Started = bundle.StrategyManual, []int{3, 0} }),
		"roster":          o.edit(func(c *ClassOrder) { c.Roster = make([]bundle.NodeID, MaxRoster+1) }),
	} {
		if err := bad.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
		if _, err := MarshalOrder(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: marshalled: %v", want, err)
		}
	}
}

func TestSuccessorRefuses(t *testing.T) {
	old, err := testOrder(t, 3).Retry("kv", idOf("n1"))
	if err != nil {
		t.Fatal(err)
	}
	if old, err = old.Skip("kv", idOf("n2")); err != nil {
		t.Fatal(err)
	}
	next := old.edit(func(*ClassOrder) {})
	next.Serial++
	if err := Successor(old, next); err != nil {
		t.Fatalf("an order that changes nothing: %v", err)
	}
	at := func(name string) int { return slices.Index(old.Classes["kv"].Roster, idOf(name)) }
	with := func(f func(*Order)) *Order { n := *next; f(&n); return &n }
	for want, bad := range map[string]*Order{
		"release 3":    with(func(o *Order) { o.Release = 3 }),
		"is for":       with(func(o *Order) { o.Manifest = bundle.Sum(nil) }),
		"after 1":      with(func(o *Order) { o.Previous = 1 }),
		"rise":         with(func(o *Order) { o.Serial = old.Serial }),
		"only grows":   next.edit(func(c *ClassOrder) { c.Roster = c.Roster[:3] }),
		"at its end":   next.edit(func(c *ClassOrder) { c.Roster[0], c.Roster[1] = c.Roster[1], c.Roster[0] }),
		"class kv":     with(func(o *Order) { o.Classes = nil }),
		"rank":         next.edit(func(c *ClassOrder) { c.Strategy = bundle.StrategyManual }),
		"for good":     next.edit(func(c *ClassOrder) { c.Skipped = nil }),
		"every place":  next.edit(func(c *ClassOrder) { c.Skipped = append(c.Skipped, at("n1")); slices.Sort(c.Skipped) }),
		"a skip cover": next.edit(func(c *ClassOrder) { c.Skipped = []int{at("n0")} }),
	} {
		if err := Successor(old, bad); !errors.Is(err, ErrNotSuccessor) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	aborted := with(func(o *Order) { o.State = StateAborted })
	revived := with(func(o *Order) { o.Serial++ })
	if err := Successor(aborted, revived); !errors.Is(err, ErrNotSuccessor) {
		t.Errorf("an aborted order came back: %v", err)
	}
}

func TestFollowsRefuses(t *testing.T) {
	previous := testOrder(t, 3)
	next := previous.edit(func(c *ClassOrder) { c.Roster = append(c.Roster, idOf("new")) })
	next.Release, next.Previous = 5, 2
	if err := Follows(previous, next); err != nil {
		t.Fatal(err)
	}
	gone, err := previous.Skip("kv", previous.Classes["kv"].Roster[0])
	if err != nil {
		t.Fatal(err)
	}
	short := next.edit(func(c *ClassOrder) { c.Roster = c.Roster[1:] })
	if err := Follows(gone, short); err != nil {
		t.Errorf("a skipped node may be left out: %v", err)
	}
	unheard := *next
	unheard.Previous = 3
	for name, err := range map[string]error{
		"a node left out":       Follows(previous, short),
		"unknown predecessor":   Follows(nil, next),
		"another predecessor":   Follows(previous, &unheard),
		"all nodes of kv gone":  Follows(previous, &Order{Release: 3, Previous: 2}),
		"forgotten predecessor": Follows(previous, testOrder(t, 3)),
	} {
		if !errors.Is(err, ErrNotSuccessor) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestChangeLeavesTheOldOrderAlone(t *testing.T) {
	o := testOrder(t, 3)
	before, err := MarshalOrder(o)
	if err != nil {
		t.Fatal(err)
	}
	next := o
	for i := range 20 {
		id := idOf(fmt.Sprint("n", i%4))
		if next, err = next.Retry("kv", id); err != nil {
			t.Fatal(err)
		}
		if next, err = next.Skip("kv", id); err != nil {
			t.Fatal(err)
		}
	}
	if err := Successor(o, next); err != nil {
		t.Errorf("serial %d does not follow serial 1: %v", next.Serial, err)
	}
	if after, err := MarshalOrder(o); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the old order has changed: %v", err)
	}
	if _, err := o.Skip("auth", idOf("n0")); !errors.Is(err, ErrRefused) {
		t.Errorf("skip in a class that the order does not have: %v", err)
	}
}

// TestRetryOfAClassThatCameLater: nothing was known of a class when the order
// was signed, so it has none; its nodes must not be shut out for good.
func TestRetryOfAClassThatCameLater(t *testing.T) {
	o := testOrder(t, 3)
	id := idOf("late")
	if _, err := o.Start("late", id); !errors.Is(err, ErrRefused) {
		t.Fatalf("start in a class without schedule: %v", err)
	}
	next, err := o.Retry("late", id)
	if err != nil {
		t.Fatal(err)
	}
	if err := Successor(o, next); err != nil {
		t.Fatal(err)
	}
	d := Decide(Input{Self: id, Class: "late", Order: next, Synced: true, Lookup: func(n bundle.NodeID) (view.Record, bool) {
		return view.Record{Node: n, Version: 1}, n == id
	}})
	if !d.Go {
		t.Fatalf("it waits: %+v", d.Reason)
	}
	if c := next.Classes["late"]; c.MaxUnavailable != 1 || c.Strategy != bundle.StrategyRolling {
		t.Fatalf("its schedule: %+v", c)
	}
}

func TestInstantiateIsAFunctionOfItsInput(t *testing.T) {
	m := &bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {
		Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1"},
	}}}
	var nodes []Candidate
	for i := range 50 {
		nodes = append(nodes, Candidate{ID: idOf(fmt.Sprint("n", i)), Class: "kv", Reachable: i%5 > 0})
	}
	nodes = append(nodes, Candidate{ID: idOf("n5"), Class: "kv", Reachable: true}, Candidate{ID: idOf("a"), Class: "auth", Reachable: true})
	var first []byte
	for range 5 {
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		o, err := Instantiate(m, bundle.Sum([]byte("m")), nil, nodes)
		if err != nil {
			t.Fatal(err)
		}
		data, err := MarshalOrder(o)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = data
			checkRoster(t, o)
		}
		if !bytes.Equal(first, data) {
			t.Fatalf("the order depends on the sequence of the candidates:\n%s\n%s", first, data)
		}
	}
	other, err := Instantiate(m, bundle.Sum([]byte("other")), nil, nodes)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := MarshalOrder(other); err != nil || bytes.Equal(first, data) {
		t.Errorf("another release has the same ranks: %v", err)
	}
}

func checkRoster(t *testing.T, o *Order) {
	t.Helper()
	roster := o.Classes["kv"].Roster
	if len(roster) != 50 {
		t.Fatalf("%d places for 50 nodes", len(roster))
	}
	unreachable := map[bundle.NodeID]bool{}
	for i := 0; i < 50; i += 5 {
		unreachable[idOf(fmt.Sprint("n", i))] = i != 5 // n5 was seen by another name of it
	}
	for i, id := range roster {
		if last := i >= 41; unreachable[id] != last {
			t.Errorf("place %d: unreachable %t", i, unreachable[id])
		}
	}
	if auth := o.Classes["auth"]; auth.MaxUnavailable != 1 || auth.FailureMax != 1 || len(auth.Roster) != 1 {
		t.Errorf("a class without a schedule got %+v", auth)
	}
}

func TestParseOrderRefuses(t *testing.T) {
	good, err := MarshalOrder(testOrder(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, ErrMalformed},
		{"cut", good[:len(good)-1], ErrMalformed},
		{"more after", append(slices.Clone(good), '{'), ErrMalformed},
		{"newer", replace(`"format":1`, `"format":99`), ErrTooNew},
		{"newer than it must be", replace(`"format":1`, `"format":2`), ErrInvalid},
		{"unknown field", replace(`"format":1`, `"format":1,"x":0`), ErrMalformed},
		{"space", replace(`"format":1`, `"format": 1`), ErrMalformed},
		{"twice", replace(`"format":1`, `"format":1,"format":1`), ErrMalformed},
		{"empty list", replace(`"roster"`, `"skipped":[],"roster"`), ErrMalformed},
		{"upper case", replace(`"roster":["`, `"roster":["A`), ErrMalformed},
		{"no state", replace(`"state":"running"`, `"state":""`), ErrInvalid},
		{"too long", make([]byte, MaxOrderBytes+1), ErrMalformed},
	} {
		if _, err := ParseOrder(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// TestFrozenBytes keeps the form of the first format: signed orders must be
// readable for ever.
func TestFrozenBytes(t *testing.T) {
	o, err := testOrder(t, 1).Skip("kv", idOf("n0"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := MarshalOrder(o)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"format":1,"release":2,"manifest":"sha256:` + bundle.Sum([]byte("manifest")).Hex() + `","serial":2,"state":"running","classes":{"kv":{"strategy":"rolling","max_unavailable":1,"failure_max":1,"roster":["` +
		idOf("n0").String() + `"],"skipped":[0]}}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzParseOrder(f *testing.F) {
	o := testOrder(f, 3)
	for _, change := range []func(*Order) (*Order, error){
		(*Order).Pause,
		func(o *Order) (*Order, error) { return o.Retry("kv", idOf("n0")) },
		func(o *Order) (*Order, error) { return o.Skip("kv", idOf("n0")) },
	} {
		data, err := MarshalOrder(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		if o, err = change(o); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseOrder(data)
		if err != nil {
			return
		}
		again, err := MarshalOrder(o)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q became %q: %v", data, again, err)
		}
		// Whatever is signed, a decision must come out.
		for class, c := range o.Classes {
			for _, id := range c.Roster {
				Decide(Input{Self: id, Class: class, Order: o, Synced: true, Lookup: func(id bundle.NodeID) (view.Record, bool) { return view.Record{Node: id}, true }})
			}
		}
		Summary(o, func(bundle.NodeID) (view.Record, bool) { return view.Record{}, false })
	})
}

func BenchmarkDecide(b *testing.B) {
	o := testOrder(b, 10_000)
	roster := o.Classes["kv"].Roster
	in := Input{Self: roster[len(roster)-1], Class: "kv", Order: o, Synced: true,
		Lookup: func(id bundle.NodeID) (view.Record, bool) { return view.Record{Node: id, Version: 1}, true }}
	for b.Loop() {
		Decide(in)
	}
}

// TestTooManyWaves: a label of many values is refused with what to do instead.
func TestTooManyWaves(t *testing.T) {
	m := &bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {Schedule: bundle.ScheduleSpec{
		Strategy: bundle.StrategyRolling, MaxUnavailable: "1", Waves: []bundle.Wave{{Each: "host"}},
	}}}}
	var nodes []Candidate
	for i := range MaxWaves + 1 {
		host := fmt.Sprintf("h%d", i)
		nodes = append(nodes, Candidate{ID: idOf(host), Class: "kv", Reachable: true, Labels: map[string]string{"host": host}})
	}
	_, err := Instantiate(m, bundle.Sum(nil), nil, nodes)
	if want := "the most is 256: build the release with waves by count or percent, or by a label of fewer values"; !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if _, err := Instantiate(m, bundle.Sum(nil), nil, nodes[1:]); err != nil {
		t.Error(err)
	}
}

// On the way back, nodes that cannot be reached come last: the others need not wait for them.
func TestTurnRanksWhoIsAwayLast(t *testing.T) {
	ids := []bundle.NodeID{{1}, {2}, {3}, {4}}
	o := &Order{Format: FormatVersion, Release: 2, Manifest: bundle.Sum(nil), Serial: 1, State: StateRunning, Classes: map[bundle.Class]ClassOrder{
		"kv": {Strategy: bundle.StrategyRolling, MaxUnavailable: 1, Roster: ids},
	}}
	next, err := o.Revert([]Candidate{
		{ID: ids[0], Class: "kv", Version: 2}, {ID: ids[1], Class: "kv", Version: 2, Reachable: true},
		{ID: ids[2], Class: "kv", Version: 2, Reachable: true, Left: true}, {ID: ids[3], Class: "kv", Version: 2, Reachable: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := next.Classes["kv"].Roster, []bundle.NodeID{{2}, {4}, {1}, {3}}; !slices.Equal(got, want) {
		t.Errorf("ranks %v, want %v", got, want)
	}
}

package schedule

import (
	"strings"
	"testing"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// TestIdleCountsAsFailure: a rollout that has not got on for its deadline counts as one node
// that failed, with those that did, and going back is held up by none of that.
func TestIdleCountsAsFailure(t *testing.T) {
	o := testOrder(t, 4).edit(func(c *ClassOrder) {
		c.ProgressDeadline, c.FailureMax, c.MaxUnavailable = bundle.Duration(time.Hour), 2, 2
	})
	o.Format = o.lowestFormat()
	if err := o.Validate(); err != nil || o.Format != FormatFinalizeAfter {
		t.Fatalf("format %d: %v", o.Format, err)
	}
	roster := o.Classes["kv"].Roster
	said := map[bundle.NodeID]view.Record{}
	for _, id := range roster {
		said[id] = view.Record{Node: id, Version: 1}
	}
	ask := func(o *Order, idle time.Duration) Decision {
		return Decide(Input{Self: roster[1], Class: "kv", Order: o, Synced: true, Idle: idle, Lookup: func(id bundle.NodeID) (view.Record, bool) { r, ok := said[id]; return r, ok }})
	}
	if d := ask(o, 2*time.Hour); !d.Go {
		t.Errorf("two may fail, and none has: %+v", d)
	}
	said[roster[0]] = view.Record{Node: roster[0], Version: 1, Ended: view.Ended{Release: 2, Count: 1}}
	if d := ask(o, time.Hour-1); !d.Go {
		t.Errorf("one has failed, and it gets on: %+v", d)
	}
	d := ask(o, time.Hour)
	if d.Go || d.Reason.Code != CodeStopped || d.Reason.Command != "moult pause --release 2" || !strings.Contains(d.Reason.Text, "newly settled for 1h0m0s") {
		t.Errorf("one has failed, and it does not get on: %+v", d)
	}
	if d := ask(o.edit(func(c *ClassOrder) { c.ProgressDeadline = 0 }), 100*time.Hour); !d.Go {
		t.Errorf("nobody has asked that it gets on: %+v", d)
	}
	back, err := o.Revert(nil)
	if err != nil {
		t.Fatal(err)
	}
	for id, r := range said {
		r.Turned = view.Turned{Release: 2, Turn: 1}
		said[id] = r
	}
	roster = back.Classes["kv"].Roster
	if d := ask(back, 100*time.Hour); d.Reason.Code == CodeStopped {
		t.Errorf("it is taken back: %+v", d)
	}
}

// TestIdles: time counts only while somebody could go.
func TestIdles(t *testing.T) {
	o := testOrder(t, 2)
	roster, now := o.Classes["kv"].Roster, time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	said := map[bundle.NodeID]view.Record{roster[0]: {Version: 2}}
	tally := func(o *Order) *Tally {
		return NewTally(o, func(id bundle.NodeID) (view.Record, bool) { r, ok := said[id]; return r, ok })
	}
	window := func(start string) *Order {
		return o.edit(func(c *ClassOrder) {
			c.Windows = []bundle.Window{{Start: start, Length: bundle.Duration(time.Hour), Timezone: "UTC"}}
		})
	}
	paused, err := o.Pause()
	if err != nil {
		t.Fatal(err)
	}
	byHand := o.edit(func(c *ClassOrder) { c.Strategy = bundle.StrategyManual })
	started, err := byHand.Start("kv", roster[1])
	if err != nil {
		t.Fatal(err)
	}
	conditions := func(when, holdIf string) *Order {
		return o.edit(func(c *ClassOrder) { c.When, c.HoldIf = when, holdIf })
	}
	saying := map[string]Answer{"yes": AnswerYes, "no": AnswerNo, "what?": AnswerUnread}
	ask := func(_ bundle.Class, _ bundle.NodeID, condition string) Said { return Said{Answer: saying[condition]} }
	for _, c := range []struct {
		name string
		o    *Order
		want bool
	}{
		{"one is behind", o, true}, {"paused", paused, false}, {"nobody is started", byHand, false}, {"one is started", started, true},
		{"no window is open", window("02:00"), false}, {"a window is open", window("11:30"), true},
		{"it waits for its time", conditions("no", ""), false}, {"nothing is known of its time", conditions("unknown", ""), false},
		{"its time has come", conditions("yes", "no"), true}, {"it is held", conditions("yes", "yes"), false},
		{"what holds it cannot be read", conditions("", "what?"), false}, {"what holds it says nothing", conditions("", "unknown"), true},
		{"no window is open, and the operator has said now", window("02:00").edit(func(c *ClassOrder) { c.Now = []int{1} }), true},
		{"it is held, and the operator has said now", conditions("", "yes").edit(func(c *ClassOrder) { c.Now = []int{1} }), true},
	} {
		if got := tally(c.o).Idles(Input{Class: "kv", Ask: ask, Now: now, Zone: time.LoadLocation}); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if n := tally(o).Behind("kv"); n != 1 {
		t.Errorf("%d are behind", n)
	}
	said[roster[1]] = view.Record{Version: 1, Phase: view.Starting}
	if !tally(conditions("no", "")).Idles(Input{Class: "kv", Ask: ask, Now: now, Zone: time.LoadLocation}) {
		t.Error("who is down waits for no condition")
	}
	// Another class goes after it, which waits for its own window.
	two := window("02:00")
	web := two.Classes["kv"]
	web.Windows, web.After, web.Roster = nil, []bundle.Class{"kv"}, []bundle.NodeID{idOf("w1")}
	two.Classes["web"] = web
	idles := func() (kv, web bool) {
		tl := tally(two)
		return tl.Idles(Input{Class: "kv", Now: now, Zone: time.LoadLocation}), tl.Idles(Input{Class: "web", Now: now, Zone: time.LoadLocation})
	}
	said[roster[1]] = view.Record{Version: 1}
	if kv, web := idles(); kv || web {
		t.Errorf("both wait as ordered: kv %v, web %v", kv, web)
	}
	said[roster[1]] = view.Record{Version: 2}
	if kv, web := idles(); kv || !web {
		t.Errorf("kv is done, and web has its turn: kv %v, web %v", kv, web)
	}
	if tl := tally(o); tl.Behind("kv") != 0 || tl.Idles(Input{Class: "kv", Now: now, Zone: time.LoadLocation}) {
		t.Error("all are there, and somebody is waited for")
	}
}

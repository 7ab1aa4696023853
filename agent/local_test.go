package agent

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/ways"
	"moult/simlayer/host"
	"moult/store/bundle"
)

func TestObjectStatus(t *testing.T) {
	exec := simulated{callers: 1, to: 2, release: 2, past: true, what: bundle.Simulation{Kind: bundle.SimulateExec}}
	rules := simulated{callers: 3, to: 2, release: 3, what: bundle.Simulation{Kind: bundle.SimulateRules}}
	for _, c := range []struct {
		name   string
		o      simulated
		placed bool
		local  bool
		p      host.Stats
		want   control.ObjectStatus
	}{
		{"in the agent", rules, true, true, host.Stats{},
			control.ObjectStatus{Callers: 3, Calls: 2, Release: 3, Side: "future", Kind: "rules", Where: "agent", State: "running"}},
		{"its file is not here", exec, false, false, host.Stats{},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "waiting", Problem: "what it is made of is not here yet"}},
		{"in a process", exec, true, false, host.Stats{State: host.StateRunning, PID: 7, Oldest: time.Second},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "running", PID: 7, Oldest: bundle.Duration(time.Second)}},
		{"its file is broken", exec, true, false, host.Stats{State: host.StateRunning, PID: 7, Problem: "no exports"},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "broken", PID: 7, Problem: "no exports"}},
		{"it ended", exec, true, false, host.Stats{State: host.StateResting, Restarts: 2, Problem: "exit status 1"},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "restarting", Restarts: 2, Problem: "exit status 1"}},
		{"it begins", exec, true, false, host.Stats{State: host.StateStarting},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "starting"}},
		{"it begins again", exec, true, false, host.Stats{State: host.StateStarting, Restarts: 1},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "restarting", Restarts: 1}},
		{"nobody needs it", exec, true, false, host.Stats{State: host.StateIdle},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "idle"}},
		{"its state is being transformed", exec, true, true, host.Stats{},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "idle", Problem: "the node is being upgraded"}},
	} {
		if got := objectStatus(c.o, c.placed, c.local, c.p); got != c.want {
			t.Errorf("%s:\n%+v, want\n%+v", c.name, got, c.want)
		}
	}
}

// What an agent says of its own node: the ways, the objects, and the calls of
// their callers.
func TestLocal(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer node.Close()
	b := newBench(t, benchConfig(t), 2)
	var old string
	b.do(func() {
		b.releases(1, 3, func(v bundle.Version, cu *bundle.ClassUpgrade) {
			if v == 3 {
				cu.Future = bundle.Simulation{Kind: bundle.SimulateRefuse, Reason: "no"}
			}
		})
		b.up(2, "api")
		b.live.backends["api"] = node.Listener.Addr().String()
		b.viewNews = true
		b.route()
		b.ways.Egress.Why = "connect: not here"
		at := b.layer.Addresses()["api"].Versions
		old = "http://" + at[1]
		resp, err := http.Get("http://" + at[3])
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	})
	before := time.Now().Truncate(time.Millisecond)
	for range 2 {
		resp, err := http.Get(old)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	var l control.Local
	b.do(func() { l = b.status(nil).Local })
	if l.Name != "n1" || l.Native != 2 || l.Egress != (control.Way{Kind: ways.EgressProxy, Why: "connect: not here"}) || l.Services["api"].Attach.Kind != ways.AttachRelay {
		t.Errorf("%+v", l)
	}
	if len(l.Objects) != 2 {
		t.Fatalf("%d objects: %+v", len(l.Objects), l.Objects)
	}
	past, future := l.Objects[0], l.Objects[1]
	if past.Callers != 1 || past.Calls != 2 || past.Side != control.SidePast || past.Kind != bundle.SimulateCompatible || past.State != control.ObjectRunning ||
		past.Counted.Calls != 2 || past.Counted.Denied != 0 || past.Counted.Mean <= 0 || past.Counted.Last.Before(before) {
		t.Errorf("for callers of version 1: %+v", past)
	}
	if future.Callers != 3 || future.Side != control.SideFuture || future.Counted.Calls != 1 || future.Counted.Denied != 1 {
		t.Errorf("for callers of version 3: %+v", future)
	}
	if got := l.Services["api"].Callers[1]; got != past.Counted {
		t.Errorf("by service: %+v, want %+v", got, past.Counted)
	}
	t.Run("a rules file that does not parse", func(t *testing.T) {
		b.do(func() {
			o := b.serving.all[1]
			o.what = bundle.Simulation{Kind: bundle.SimulateRules}
			b.serving.all[1], b.rules[o.what.Rules.Digest] = o, nil
			if s := b.local().Objects[0]; s.State != control.ObjectBroken || s.Problem != badRules {
				t.Errorf("%+v", s)
			}
		})
	})
}

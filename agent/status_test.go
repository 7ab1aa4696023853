package agent

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"moult/agent/config"
	"moult/agent/control"
	"moult/gossip/view"
	"moult/store/bundle"
)

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
	if l.Name != "n1" || l.Native != 2 || l.Egress != (control.Way{Kind: config.EgressProxy, Why: "connect: not here"}) || l.Services["api"].Attach.Kind != config.AttachRelay {
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
	if got := l.Services["api"].Callers[1]; got.Calls != 2 {
		t.Errorf("by service: %+v, want 2 calls", got)
	}
	t.Run("a rules file that does not parse", func(t *testing.T) {
		rules, err := b.depot.PutBlob([]byte("no rules {"))
		if err != nil {
			t.Fatal(err)
		}
		b.do(func() {
			b.releases(1, 3, func(v bundle.Version, cu *bundle.ClassUpgrade) {
				if v == 2 {
					cu.Past = bundle.Simulation{Kind: bundle.SimulateRules, Rules: rules}
				}
			})
			b.route()
			if s := b.local().Objects[0]; s.State != control.ObjectBroken || s.Problem == "" {
				t.Errorf("%+v", s)
			}
		})
	})
}

// A record that claims what no release brings costs no more than others.
func TestRunsByManifests(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		b.releases(1, 3)
		for _, c := range []struct{ running, version, want bundle.Version }{
			{1, bundle.MaxVersion, 1}, {bundle.MaxVersion, 3, 0}, {1, 1, 0}, {1, 2, 1}, {3, 2, 3}, {0, 2, 0},
		} {
			if got := b.runs(view.Record{Class: "kv", Running: c.running, Version: c.version}); got != c.want {
				t.Errorf("at version %d, running %d: %d", c.version, c.running, got)
			}
		}
	})
}

package agent

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"moult/agent/config"
	"moult/agent/control"
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
		rules, err := b.Depot.PutBlob([]byte("no rules {"))
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

// The pauses between the tries of a rehearsal that cannot be made grow, and are bounded.
func TestPauseBefore(t *testing.T) {
	last := time.Duration(0)
	for tries := 1; tries < 100; tries++ {
		p := pauseBefore(tries)
		if p < last || p > rehearsalPause || tries == 1 && p != 2*minPause {
			t.Errorf("after %d tries: %v, and %v before", tries, p, last)
		}
		last = p
	}
	if last != rehearsalPause {
		t.Errorf("at last %v", last)
	}
}

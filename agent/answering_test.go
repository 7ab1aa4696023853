package agent

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/transforms"
)

// A node at version 3 gives up the objects that nobody needs, and none too early:
// each condition alone keeps them.
func TestRetire(t *testing.T) {
	const quiet = time.Hour
	whole := func(b *bench) {
		b.releases(1, 3, func(_ bundle.Version, cu *bundle.ClassUpgrade) { cu.Past.RetireAfter = bundle.Duration(quiet) })
		for v := bundle.Version(2); v <= 3; v++ {
			b.node.Orders()[v] = &schedule.Order{Release: v, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{
				"kv": {Roster: []bundle.NodeID{b.id}, MaxUnavailable: 1},
			}}
		}
		b.tell(3)
		b.up(3, "api")
	}
	cases := []struct {
		name   string
		change func(*bench)
		after  time.Duration
		want   []bundle.Version
	}{
		{"nobody needs them", func(*bench) {}, quiet, run(3, 3)},
		{"not quiet for long enough", func(*bench) {}, quiet - time.Minute, run(1, 3)},
		{"a node is at version 2", func(b *bench) { b.peer(func(r *view.Record) { r.Version = 2 }) }, quiet, run(2, 3)},
		{"a node has not said its version", func(b *bench) { b.peer(func(r *view.Record) { r.Version = 0 }) }, quiet, run(1, 3)},
		{"a node has left", func(b *bench) { b.peer(func(r *view.Record) { r.Version, r.Left = 1, true }) }, quiet, run(3, 3)},
		{"callers from outside are of version 2", func(b *bench) {
			s := b.cfg.Services["api"]
			s.External = 2
			b.cfg.Services["api"] = s
		}, quiet, run(2, 3)},
		{"no rollout order is known", func(b *bench) { clear(b.node.Orders()) }, quiet, run(1, 3)},
		{"the upgrade is under way", func(b *bench) {
			b.in(upgrade.State{Phase: upgrade.Fetching, Version: 3, Running: 3, Served: true, Goal: 4, Path: []bundle.Version{4}})
		}, quiet, run(1, 3)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, benchConfig(t), 3)
			b.do(func() {
				whole(b)
				c.change(b)
				b.viewNews = true
				b.route()
				now := time.Now()
				b.retire(now)
				if got := b.answers(); !slices.Equal(got, run(1, 3)) {
					t.Fatalf("at first it answers %v", got)
				}
				b.retire(now.Add(c.after))
				b.route()
				if got := b.answers(); !slices.Equal(got, c.want) {
					t.Errorf("answers %v, want %v", got, c.want)
				}
				// What is retired stays so after a restart, also when an old node comes.
				was := b.answering
				b.answering = answering{}
				if err := b.restoreAnswering(); err != nil || b.answering != was {
					t.Errorf("restored %+v, %v; want %+v", b.answering, err, was)
				}
				b.peer(func(r *view.Record) { r.Version = 1 })
				b.route()
				if got := b.answers(); !slices.Equal(got, c.want) {
					t.Errorf("after an old node has come it answers %v, want %v", got, c.want)
				}
			})
		})
	}
}

// A call that goes on keeps the object that it goes through, however long nobody
// begins another.
func TestOpenCallsAreNotRetired(t *testing.T) {
	const quiet = time.Hour
	leave := make(chan struct{})
	node := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-leave }))
	defer node.Close()
	b := newBench(t, benchConfig(t), 2)
	now := time.Now()
	var url string
	look := func(at time.Time) (answers []bundle.Version, open int64) {
		b.do(func() {
			b.retire(at)
			b.route()
			answers, open = b.answers(), callsOf(b.layer.Stats(), 1).Open
		})
		return answers, open
	}
	b.do(func() {
		b.releases(1, 2, func(_ bundle.Version, cu *bundle.ClassUpgrade) { cu.Past.RetireAfter = bundle.Duration(quiet) })
		b.node.Orders()[2] = &schedule.Order{Release: 2, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{
			"kv": {Roster: []bundle.NodeID{b.id}, MaxUnavailable: 1},
		}}
		b.tell(2)
		b.up(2, "api")
		b.live.backends["api"] = node.Listener.Addr().String()
		b.viewNews = true
		b.route()
		url = "http://" + b.layer.Addresses()["api"].Versions[1]
	})
	look(now)
	b.do(func() {
		if !b.routed.Watched[1] {
			t.Error("callers of version 1 may go past the agent, which then hears nothing of them")
		}
	})
	ended := make(chan error)
	go func() {
		_, err := http.Get(url)
		ended <- err
	}()
	for _, open := look(now); open == 0; _, open = look(now) {
		runtime.Gosched()
	}
	now = now.Add(2 * quiet)
	if answers, _ := look(now); !slices.Equal(answers, run(1, 2)) {
		t.Errorf("while a call goes on it answers %v", answers)
	}
	close(leave)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	now = now.Add(quiet - time.Minute)
	if answers, _ := look(now); !slices.Equal(answers, run(1, 2)) {
		t.Errorf("soon after its end it answers %v", answers)
	}
	now = now.Add(quiet)
	if answers, _ := look(now); !slices.Equal(answers, run(2, 2)) {
		t.Errorf("long after its end it answers %v", answers)
	}
}

// Callers from outside are not taken for older ones again because an old node
// joins, but only where the whole rollout was seen to end.
func TestExternalDoesNotGoBack(t *testing.T) {
	for _, ended := range []bool{true, false} {
		b := newBench(t, benchConfig(t), 2)
		b.do(func() {
			b.releases(1, 2)
			if ended {
				b.node.Orders()[2] = &schedule.Order{Release: 2, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{
					"kv": {Roster: []bundle.NodeID{b.id}, MaxUnavailable: 1},
				}}
			}
			b.tell(2)
			b.up(2, "api")
			b.viewNews = true
			b.route()
			b.peer(func(r *view.Record) { r.Version = 1 })
			b.route()
			want := bundle.Version(1)
			if ended {
				want = 2
			}
			if b.routed.External != want {
				t.Errorf("rollout ended %v: callers from outside count as version %d, want %d", ended, b.routed.External, want)
			}
		})
	}
}

// tell merges the node's own record, at version v.
func (b *bench) tell(v bundle.Version) {
	b.t.Helper()
	s, err := view.Sign(b.key, view.Record{
		Name: "n1", Class: "kv", Seq: b.node.Number() + uint64(v), Addr: "10.0.0.1:7946", Version: v, Phase: "current",
		Since: time.Now().UTC().Truncate(time.Millisecond),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.node.View().Merge(s); err != nil {
		b.t.Fatal(err)
	}
	if r, ok := b.node.View().Get(b.id); !ok || r.Version != v {
		b.t.Fatalf("own record %+v, %v", r, ok)
	}
}

// The disk of retired objects is given back later where that fails at first.
func TestPastStatesRemovedLater(t *testing.T) {
	b := newObjectsBench(t, 1)
	if _, err := b.slots.Objects().Past(2); err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		b.brings(1)
		b.brings(2)
		b.serves(1, "n")
		b.cfg.Services["no name"] = b.cfg.Services["api"] // which no host takes
	})
	b.until("objects cannot be run", func() bool { return b.alarmed("simulation objects cannot be run") > 0 })
	b.do(func() {
		b.pastSwept = true
		b.removePastStates(2)
	})
	b.until("it is to be tried again", func() bool { return !b.pastSwept && b.retireAt.After(time.Now()) })
	b.do(func() {
		delete(b.cfg.Services, "no name")
	})
	b.until("objects run", b.answered(2))
	b.do(func() {
		b.removePastStates(2)
	})
	b.until("the state is gone", func() bool {
		states, err := b.slots.Objects().List()
		return err == nil && !slices.ContainsFunc(states, func(s transforms.ObjectState) bool { return s.Kind == transforms.PastObject })
	})
}

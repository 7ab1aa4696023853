package agent

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"time"

	"moult/agent/node"
	"moult/store/bundle"
	"moult/transforms"
)

// Callers of a version that is watched come through the agent, which counts those that
// have called, and those that still do.
func TestWatchedCallersAreCounted(t *testing.T) {
	leave := make(chan struct{})
	software := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-leave }))
	defer software.Close()
	b := newBench(t, benchConfig(t), 2)
	var url string
	b.do(func() {
		b.releases(1, 2)
		b.up(2, "api")
		b.live.backends["api"] = software.Listener.Addr().String()
		b.refresh()
		r := b.loop.answering
		r.Watched = []bundle.Version{1}
		b.takeRoute(r)
		b.loop.route()
		url = "http://" + b.layer.Addresses()["api"].Versions[1]
	})
	count := func() (calls map[bundle.Version]node.Calls) {
		b.do(func() { calls = b.watchedCalls() })
		return calls
	}
	if c, watched := count()[1]; !watched || c != (node.Calls{}) {
		t.Errorf("before any call: %+v, watched %v", c, watched)
	}
	ended := make(chan error)
	go func() {
		_, err := http.Get(url)
		ended <- err
	}()
	for count()[1].Open == 0 {
		runtime.Gosched()
	}
	close(leave)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for count()[1] != (node.Calls{Begun: 1}) { // it is noted once the answer has gone
		runtime.Gosched()
	}
}

// The disk of retired objects is given back later where that fails at first.
func TestPastStatesRemovedLater(t *testing.T) {
	b := newObjectsBench(t, 1)
	if _, err := b.Slots.Objects().Past(2); err != nil {
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
	b.until("it is to be tried again", func() bool { return !b.pastSwept && b.countAt.After(time.Now()) })
	b.do(func() {
		delete(b.cfg.Services, "no name")
	})
	b.until("objects run", b.answered(2))
	b.do(func() {
		b.removePastStates(2)
	})
	b.until("the state is gone", func() bool {
		states, err := b.Slots.Objects().List()
		return err == nil && !slices.ContainsFunc(states, func(s transforms.ObjectState) bool { return s.Kind == transforms.PastObject })
	})
}

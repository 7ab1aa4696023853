package demo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"moult/agent/control"
	"moult/store/bundle"
)

// A node that has just settled counts, as it does for the release to be complete.
func TestDemoReportCounts(t *testing.T) {
	s := control.Status{
		Release: control.ReleaseStatus{Version: 2, State: control.StateComplete},
		Nodes:   []control.NodeStatus{{Class: "kv", Version: 2, Phase: "current"}, {Class: "kv", Version: 2, Phase: "settled"}},
		Classes: map[bundle.Class]control.ClassStatus{"kv": {Total: 2, Settled: 2, Budget: 1}},
	}
	if r := newReport(2, 1, s); r.Settled != 2 || r.Budget != 1 {
		t.Errorf("%+v", r)
	}
}

// TestStoryIsTimed: its parts together have the time that it is given, and what is between them
// takes nothing of it.
func TestStoryIsTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &demo{Config: Config{Timeout: 5 * time.Minute}, left: 5 * time.Minute}
		part := func(takes time.Duration) error {
			return d.timed(t.Context(), func(ctx context.Context) error { return wait(ctx, takes) })
		}
		if err := part(3 * time.Minute); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // for somebody to open the page
		if err := part(time.Minute); err != nil {
			t.Error(err)
		}
		if err := part(2 * time.Minute); !errors.Is(err, ErrTimeout) || !strings.HasPrefix(err.Error(), "the demo did not end within 5m0s: ") {
			t.Error(err)
		}
	})
}

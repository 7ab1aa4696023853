package ways

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"moult/agent/config"
	"moult/store/bundle"
)

// What is asked for by name and does not work is an error that names what does; what
// is left to us falls back, and says why.
func TestChoose(t *testing.T) {
	broken := errors.New("not\nhere")

	for _, c := range []struct {
		choose func(string, error) (Way, error)
		asked  string
		fault  error
		want   Way
		fails  bool
	}{
		{chooseAttach, config.AttachAuto, nil, Way{Kind: config.AttachSteer}, false},
		{chooseAttach, config.AttachAuto, broken, Way{config.AttachRelay, "steer: not; here"}, false},
		{chooseAttach, config.AttachSteer, nil, Way{Kind: config.AttachSteer}, false},
		{chooseAttach, config.AttachSteer, broken, Way{}, true},
		{chooseAttach, config.AttachRelay, nil, Way{Kind: config.AttachRelay}, false},
		{chooseEgress, config.EgressAuto, nil, Way{Kind: config.EgressConnect}, false},
		{chooseEgress, config.EgressAuto, broken, Way{config.EgressProxy, "connect: not; here"}, false},
		{chooseEgress, config.EgressConnect, nil, Way{Kind: config.EgressConnect}, false},
		{chooseEgress, config.EgressConnect, broken, Way{}, true},
		{chooseEgress, config.EgressProxy, nil, Way{Kind: config.EgressProxy}, false},
		{chooseEgress, config.EgressResolve, nil, Way{Kind: config.EgressResolve}, false},
	} {
		got, err := c.choose(c.asked, c.fault)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s, %v: %+v, %v; want %+v", c.asked, c.fault, got, err, c.want)
		}
		if c.fails && (!errors.Is(err, broken) || !strings.Contains(err.Error(), `"auto" takes what does`)) {
			t.Errorf("%s: %v", c.asked, err)
		}
	}
}

// Ways that need nothing of the kernel leave nothing there.
func TestWithoutKernel(t *testing.T) {
	w, err := Choose(Config{
		Node: bundle.NodeID(bundle.Sum([]byte("ways test"))), Attach: map[string]string{"api": config.AttachRelay}, Egress: config.EgressProxy,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.Attach["api"].Kind != config.AttachRelay || w.Egress.Kind != config.EgressProxy || w.Connect() != nil {
		t.Errorf("%+v", w)
	}
	if s, err := w.OpenSteer(); s != nil || err != nil {
		t.Errorf("steer: %v, %v", s, err)
	}
	unfit, _, err := w.Redirect(func(yield func(Lead) bool) { yield(Lead{Public: "name:1"}) })
	if unfit != nil || err != nil {
		t.Errorf("redirect: %v, %v", unfit, err)
	}
	if dir, err := pinned(w.node); dir != "" || err != nil {
		t.Errorf("pinned: %q, %v", dir, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

package guests

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"

	"moult/simlayer/host/control"
	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/store/durable"
)

// object is one of a setup. Setups share those that stay as they are.
type object struct {
	control.Hosted
	so.Object
	problem string // why it refuses everything; "" where it does not
	tally   *tally
	users   atomic.Int64  // calls under way, and one while it is set
	ended   chan struct{} // closed when there are none any more
}

// open makes an object. One that cannot be made refuses all calls and says why.
func (s *server) open(ctx context.Context, h control.Hosted, cache string) *object {
	obj := &object{Hosted: h, tally: &tally{}, ended: make(chan struct{})}
	obj.users.Store(1)
	var err error
	if obj.Object, err = s.openKind(ctx, h, cache); err != nil {
		obj.problem = err.Error()
		if len(obj.problem) > maxProblem {
			obj.problem = obj.problem[:maxProblem]
		}
		s.log.Warn("a simulation object cannot be used", "object", h.Version, "err", err)
		obj.Object = broken{obj.problem, h.Version}
	}
	return obj
}

func (s *server) openKind(ctx context.Context, h control.Hosted, cache string) (so.Object, error) {
	switch h.Kind {
	case control.KindCompatible:
		return so.Compatible(), nil
	case control.KindRefuse:
		return so.Refuse(h.Reason), nil
	case control.KindRules:
		data, err := durable.ReadFile(h.Path, maxRules)
		if err != nil {
			return nil, err
		}
		return so.ParseRules(data, fmt.Sprintf("of version %d", h.Version))
	}
	open := s.openers[h.Kind]
	if open == nil {
		return nil, fmt.Errorf("this moult cannot run objects of kind %q", h.Kind)
	}
	data, err := durable.ReadFile(h.Path, maxWasm)
	if err != nil {
		return nil, err
	}
	return open(ctx, Opening{Hosted: h, Data: data, Cache: cache, Log: s.log.With("object", h.Version)})
}

// broken is an object that could not be made.
type broken struct {
	problem string
	version bundle.Version
}

func (b broken) Answer(*http.Request, http.RoundTripper) (*http.Response, error) {
	return nil, so.Fail(http.StatusServiceUnavailable, nil, "the simulation object for version %d cannot be used: %s", b.version, b.problem)
}

// acquire keeps an object from being closed; false: it is too late.
func (o *object) acquire() bool {
	for {
		n := o.users.Load()
		if n == 0 {
			return false
		}
		if o.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release lets go of an object; the last call that uses it closes it.
func (o *object) release(log *slog.Logger) {
	if o.users.Add(-1) > 0 {
		return
	}
	defer close(o.ended)
	if c, ok := o.Object.(io.Closer); ok {
		if err := c.Close(); err != nil {
			log.Warn("a simulation object not closed", "object", o.Version, "err", err)
		}
	}
}

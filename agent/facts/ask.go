package facts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"moult/agent/process"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Software is whom the facts are asked of. What it returns may change while it runs.
type Software struct {
	// Addr is where a service listens; false where it has none of that name.
	Addr func(service string) (string, bool)
	// Spec is how its programs are run; an error where that is not known now.
	Spec func() (process.Spec, error)
}

// ask asks for one fact once.
func (s Software) ask(ctx context.Context, f bundle.Fact) view.Fact {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(f.Timeout), fmt.Errorf("no answer within %s", f.Timeout))
	defer cancel()
	x, err := s.number(ctx, f)
	switch {
	case err == nil:
		return view.Fact{Value: x}
	case errors.Is(err, errNotNumber):
		return view.Fact{State: view.FactNotNumber, Reason: err.Error()}.Tidy()
	}
	return view.Fact{State: view.FactNoAnswer, Reason: err.Error()}.Tidy()
}

func (s Software) number(ctx context.Context, f bundle.Fact) (float64, error) {
	spec, err := s.Spec()
	if err != nil {
		return 0, err
	}
	if f.HTTP == "" {
		out, err := spec.Output(ctx, f.Exec, maxOutput)
		if err != nil {
			return 0, cause(ctx, err)
		}
		return parse(string(out))
	}
	addr, ok := s.Addr(f.Service)
	if !ok {
		return 0, fmt.Errorf("the software has no service %s", f.Service)
	}
	data, err := spec.Get(ctx, "http://"+addr+f.HTTP, maxAnswer)
	switch {
	case err != nil:
		return 0, cause(ctx, err)
	case f.Prometheus != "":
		return inMetrics(data, f.Prometheus)
	}
	return inJSON(data, f.Pointer)
}

// cause says that the time was up, where it was.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Sample asks for facts until ctx ends, each as often as it says, and tells all of them:
// once each has been asked for, and from then on when one has changed.
func Sample(ctx context.Context, s Software, facts map[string]bundle.Fact, tell func(map[string]view.Fact)) {
	type answer struct {
		name string
		fact view.Fact
	}
	answers := make(chan answer)
	var work sync.WaitGroup
	defer work.Wait()
	for name, f := range facts {
		work.Go(func() {
			every := time.NewTicker(time.Duration(f.Every))
			defer every.Stop()
			for {
				a := answer{name, s.ask(ctx, f)}
				select {
				case answers <- a:
				case <-ctx.Done():
					return
				}
				select {
				case <-every.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	known, changed := map[string]view.Fact{}, true
	pause := time.NewTimer(0)
	defer pause.Stop()
	due := false
	for {
		select {
		case a := <-answers:
			before, ok := known[a.name]
			changed = changed || !ok || before != a.fact
			known[a.name] = a.fact
		case <-pause.C:
			due = true
		case <-ctx.Done():
			return
		}
		if due && changed && len(known) == len(facts) {
			tell(maps.Clone(known))
			due, changed = false, false
			pause.Reset(minTell)
		}
	}
}

package so

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"

	"moult/store/bundle"
)

// Chain is an Object made of objects: it answers the callers of one version at
// a node that is any number of versions away, one step a version.
type Chain struct {
	caller, native bundle.Version
	steps          []Object // the caller's first
}

// NewChain returns the chain that answers callers of version caller at a node of
// version native. objects[w] answers the callers of w by calls of the version
// next to it, on native's side: w+1 below native, w-1 above. A version between
// without an object is an error that names it.
func NewChain(caller, native bundle.Version, objects map[bundle.Version]Object) (*Chain, error) {
	c := &Chain{caller: caller, native: native}
	for v := caller; v != native; v = towards(v, native) {
		o := objects[v]
		if o == nil {
			return nil, fmt.Errorf("callers of version %d at a node of version %d: no simulation object answers version %d", caller, native, v)
		}
		if len(c.steps) == MaxChain {
			return nil, fmt.Errorf("callers of version %d at a node of version %d: more than %d objects between them", caller, native, MaxChain)
		}
		c.steps = append(c.steps, o)
	}
	return c, nil
}

func towards(v, native bundle.Version) bundle.Version {
	if v < native {
		return v + 1
	}
	return v - 1
}

// Chains returns the chain of every version that objects can answer at a node of
// version native, native itself among them. Objects beyond a gap are left out.
func Chains(native bundle.Version, objects map[bundle.Version]Object) map[bundle.Version]*Chain {
	chains := map[bundle.Version]*Chain{}
	for v := range objects {
		if v == native {
			continue
		}
		if c, err := NewChain(v, native, objects); err == nil {
			chains[v] = c
		}
	}
	chains[native] = &Chain{caller: native, native: native}
	return chains
}

// Bounded reports whether all of c's objects are: see the function Bounded.
func (c *Chain) Bounded() bool { return c.every(Bounded) }

func (c *Chain) every(is func(Object) bool) bool {
	return !slices.ContainsFunc(c.steps, func(o Object) bool { return !is(o) })
}

// Native is the version of the node that c calls.
func (c *Chain) Native() bundle.Version { return c.native }

// Answer implements Object. Refusals say from which version to which.
func (c *Chain) Answer(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	if len(c.steps) == 0 {
		return next.RoundTrip(r)
	}
	// A chain that is reached again from its own end shares what is left, so that a
	// circle of them ends too.
	left, inside := r.Context().Value(budgetKey{}).(*Budget)
	if !inside {
		left = NewBudget()
		r = r.WithContext(left.Within(r.Context()))
	}
	resp, err := link{steps: c.steps, end: next, left: left}.RoundTrip(r)
	if err != nil {
		return nil, c.sign(err)
	}
	return resp, nil
}

// sign fills in the versions of a refusal.
func (c *Chain) sign(err error) error {
	var ref *Refusal
	if !errors.As(err, &ref) {
		return err
	}
	signed := *ref
	signed.From, signed.To = c.caller, c.native
	c.Shape(&signed)
	return &signed
}

// Shape gives a refusal of callers of c the form that their own object says, once it is
// written. One that has a form keeps it.
func (c *Chain) Shape(r *Refusal) {
	for _, o := range c.steps {
		if _, same := o.(compatible); !same {
			r.shaper, _ = o.(*Rules)
			return
		}
	}
}

// Budget bounds the calls that one call may become, at MaxNextCalls: a Chain makes
// one where the call's context has none.
type Budget struct{ n atomic.Int64 }

// NewBudget returns a whole one.
func NewBudget() *Budget {
	b := &Budget{}
	b.Reset()
	return b
}

// Reset makes b whole again, for another call; the one before must have ended.
func (b *Budget) Reset() { b.n.Store(MaxNextCalls) }

// Within returns a context for calls that b bounds.
func (b *Budget) Within(ctx context.Context) context.Context {
	return context.WithValue(ctx, budgetKey{}, b)
}

type budgetKey struct{}

// link is what a step of a chain sees as next.
type link struct {
	steps []Object
	end   http.RoundTripper
	left  *Budget
}

func (l link) RoundTrip(r *http.Request) (*http.Response, error) {
	if l.left.n.Add(-1) < 0 {
		return nil, tooManyCalls()
	}
	if len(l.steps) == 0 {
		return l.end.RoundTrip(r)
	}
	return l.steps[0].Answer(r, link{steps: l.steps[1:], end: l.end, left: l.left})
}

func tooManyCalls() *Refusal {
	return Fail(http.StatusLoopDetected, nil, "the simulation objects made more than %d calls to answer one", MaxNextCalls)
}

package node

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// TestRouteAtWithdrawn: a node that runs what is withdrawn, for it was skipped and is there
// all the same, has no way to the versions that go around it.
func TestRouteAtWithdrawn(t *testing.T) {
	r := newBench(t, at(2))
	r.releases(1, 3, func(v bundle.Version, cu *bundle.ClassUpgrade) {
		if v == 3 {
			cu.From = 1
		}
	})
	r.order(2)
	r.docs.orders[2].Withdrawn = bundle.Withdrawn{{Class: "kv", First: 2, Last: 2}}
	r.takeOrders()
	if route := r.ready(); route.Oldest != 1 || route.Newest != 2 || !r.alarmed("version 2 of class kv is withdrawn") {
		t.Errorf("callers of %d to %d are answered, alarms %q", route.Oldest, route.Newest, r.Alarms())
	}
}

// TestRouteAround: callers of a version that is withdrawn are answered as those of the
// version before, so the chain of objects goes around it.
func TestRouteAround(t *testing.T) {
	r := newBench(t, at(1))
	r.releases(1, 3, func(v bundle.Version, cu *bundle.ClassUpgrade) {
		if v == 3 {
			cu.From = 1
		}
	})
	objects := func() (releases []bundle.Version) {
		route := r.Route()
		if route.Oldest != 1 || route.Newest != 3 {
			t.Errorf("callers of %d to %d are answered", route.Oldest, route.Newest)
		}
		for _, v := range sorted(route.Releases) {
			if _, changes := r.Manifests()[v].Classes["kv"]; changes {
				releases = append(releases, v)
			}
		}
		return releases
	}
	if got := objects(); !slices.Equal(got, []bundle.Version{1, 2, 3}) {
		t.Errorf("objects of releases %v", got)
	}
	from, passes := r.From("kv", 3)
	if from != 2 || passes {
		t.Errorf("release 3 takes kv from %d", from)
	}
	before := r.Route()
	r.order(2)
	r.docs.orders[2].Withdrawn = bundle.Withdrawn{{Class: "auth", First: 2, Last: 3}, {Class: "kv", First: 2, Last: 2}}
	r.takeOrders()
	if got := objects(); !slices.Equal(got, []bundle.Version{1, 3}) {
		t.Errorf("objects of releases %v, where 2 is withdrawn", got)
	}
	if reflect.DeepEqual(before, r.Route()) {
		t.Error("the driver hears nothing of it")
	}
	if from, passes = r.From("kv", 3); from != 1 || !passes {
		t.Errorf("release 3 takes kv from %d, where 2 is withdrawn", from)
	}
	// Release 4 was signed, never injected, and withdrawn with release 3.
	r.docs.orders[2].Withdrawn = bundle.Withdrawn{{Class: "kv", First: 2, Last: 4}}
	r.takeOrders()
	if from, passes = r.From("kv", 5); from != 1 || !passes {
		t.Errorf("release 5 takes kv from %d, where 2 to 4 are withdrawn, and 4 is not here", from)
	}
}

// TestPathOfABundle: a node has no path to a release of a bundle that is withdrawn, nor to
// one by a release that was signed twice, as it would go none by itself.
func TestPathOfABundle(t *testing.T) {
	bundled := func(v bundle.Version, previous bundle.Digest) map[bundle.Version]*bundle.Manifest {
		return map[bundle.Version]*bundle.Manifest{v: {Version: v, Previous: previous, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {From: v - 1}}}}
	}
	ours, other := bundle.Sum([]byte("2")), bundle.Sum([]byte("another 2"))
	for name, c := range map[string]struct {
		previous bundle.Digest
		frozen   bundle.Version
		disowned bool
		struck   bundle.Version
		want     error
	}{
		"a good way":          {previous: ours},
		"through a frozen":    {previous: other, frozen: 2, want: upgrade.ErrFrozen},
		"as the next says":    {previous: ours, frozen: 2},
		"through a disowned":  {previous: other, disowned: true, want: upgrade.ErrFrozen},
		"to a frozen one":     {previous: ours, frozen: 3, want: upgrade.ErrFrozen},
		"to a withdrawn one":  {previous: ours, struck: 3, want: ErrWithdrawn},
		"around a withdrawn":  {previous: ours, struck: 2, want: upgrade.OtherStart{Release: 3, From: 2, At: 1}},
		"to what is not here": {previous: ours, frozen: 9},
	} {
		r := newBench(t, at(1))
		r.releases(1, 2)
		r.meta.Releases = map[bundle.Version]trust.Ref{2: {Digest: ours}}
		if c.frozen != 0 {
			r.frozen = map[bundle.Version]bundle.Digest{c.frozen: {}}
		}
		if c.disowned {
			r.contents = map[bundle.Version]bundle.Chunk{2: {Digest: other}}
		}
		if c.struck != 0 {
			r.order(1)
			r.docs.orders[1].Withdrawn = bundle.Withdrawn{{Class: "kv", First: c.struck, Last: c.struck}}
			r.takeOrders()
		}
		path, err := r.PathTo(3, bundled(3, c.previous))
		if !errors.Is(err, c.want) || c.want == nil && !slices.Equal(path, []bundle.Version{2, 3}) {
			t.Errorf("%s: %v, %v, want %v", name, path, err, c.want)
		}
	}
}

// TestOrderLacksWithdrawn: an order that another operator has signed, who had not heard of
// a withdrawal, is refused with what mends it.
func TestOrderLacksWithdrawn(t *testing.T) {
	for last, want := range map[bundle.Version]string{2: "`moult pause --release 3`", 3: "`moult abort --release 3`"} {
		r := newBench(t, at(1))
		r.order(2)
		r.docs.orders[2].Withdrawn = bundle.Withdrawn{{Class: "kv", First: 2, Last: last}}
		m := Metadata{Orders: map[bundle.Version]trust.Ref{2: {}, 3: {}}}
		o := *r.docs.orders[2]
		o.Release, o.Previous, o.Withdrawn = 3, 2, nil
		if err := r.JudgeOrder(m, 3, &o, bundle.Sum([]byte("3"))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("releases 2 to %d are withdrawn: %v, want %s", last, err, want)
		}
	}
}

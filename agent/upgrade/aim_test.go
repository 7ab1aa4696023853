package upgrade

import (
	"errors"
	"slices"
	"testing"

	"moult/store/bundle"
)

// chain offers releases 1 to n, all changed and ordered, each on top of the
// one before.
func chain(n bundle.Version) []Offer {
	var offers []Offer
	for v := bundle.Version(1); v <= n; v++ {
		o := Offer{Release: Release{Version: v, Changes: true}, Order: Ordered, Manifest: bundle.Sum([]byte{byte(v)})}
		if v > 1 {
			o.Previous = offers[v-2].Manifest
		}
		offers = append(offers, o)
	}
	return offers
}

func TestAimConflict(t *testing.T) {
	other := bundle.Sum([]byte("the other content"))
	at := func(v bundle.Version) State { return State{Phase: Current, Version: v, Running: v, Served: true} }
	for name, tc := range map[string]struct {
		state    State
		head     bundle.Version
		conflict []bundle.Version
		change   func([]Offer)
		want     []bundle.Version // the path; nil: ErrFrozen
	}{
		"through one that the next names":     {at(1), 3, []bundle.Version{2}, nil, []bundle.Version{2, 3}},
		"through one that the next disowns":   {at(1), 3, []bundle.Version{2}, func(o []Offer) { o[2].Previous = other }, nil},
		"through two of one line":             {at(1), 4, []bundle.Version{2, 3}, nil, []bundle.Version{2, 3, 4}},
		"through two, the first disowned":     {at(1), 4, []bundle.Version{2, 3}, func(o []Offer) { o[2].Previous = other }, nil},
		"through two, the second disowned":    {at(1), 4, []bundle.Version{2, 3}, func(o []Offer) { o[3].Previous = other }, nil},
		"through one that changes other only": {at(1), 3, []bundle.Version{2}, func(o []Offer) { o[1].Changes, o[2].Previous = false, other }, nil},
		"from one that the next names":        {at(2), 3, []bundle.Version{2}, nil, []bundle.Version{3}},
		"from one that the next disowns":      {at(2), 3, []bundle.Version{2}, func(o []Offer) { o[2].Previous = other }, nil},
		"long past one":                       {at(3), 4, []bundle.Version{2}, func(o []Offer) { o[2].Previous = other }, []bundle.Version{4}},
		"a fresh node past one":               {State{Phase: Current}, 3, []bundle.Version{2}, func(o []Offer) { o[2].Previous = other }, []bundle.Version{3}},
		"a fresh node onto one named":         {State{Phase: Current}, 3, []bundle.Version{2}, func(o []Offer) { o[2].Changes = false }, []bundle.Version{2}},
		"a fresh node onto one disowned":      {State{Phase: Current}, 3, []bundle.Version{2}, func(o []Offer) { o[2].Changes, o[2].Previous = false, other }, nil},
		"a first one without digests":         {at(1), 3, []bundle.Version{2}, func(o []Offer) { o[1].Manifest, o[2].Previous = bundle.Digest{}, bundle.Digest{} }, nil},
	} {
		offers := chain(tc.head)
		for _, n := range tc.conflict {
			offers[n-1].Conflict = true
		}
		if tc.change != nil {
			tc.change(offers)
		}
		e, err := Aim(tc.state, offers)
		target, _ := e.(Target)
		switch {
		case tc.want == nil:
			if !errors.Is(err, ErrFrozen) || e != nil {
				t.Errorf("%s: %+v, %v, want ErrFrozen", name, e, err)
			}
		case err != nil || target.Goal != tc.head || !slices.Equal(target.Path, tc.want):
			t.Errorf("%s: %+v, %v, want path %v to %d", name, e, err, tc.want, tc.head)
		}
	}
}

// TestAimConflictNoGoal: a conflict is resolved for the way only.
func TestAimConflictNoGoal(t *testing.T) {
	offers := chain(3)
	offers[1].Conflict, offers[2].Order = true, Unordered
	state := State{Phase: Current, Version: 1, Running: 1, Served: true}
	if e, err := Aim(state, offers); e != nil || err != nil {
		t.Errorf("a conflicted release as the newest with an order: %+v, %v", e, err)
	}
}

// TestAimConflictUnderWay: a conflict that shows while a node is on its way
// sends it back.
func TestAimConflictUnderWay(t *testing.T) {
	offers := chain(3)
	offers[1].Conflict, offers[2].Previous = true, bundle.Sum([]byte("the other content"))
	state := State{Phase: Waiting, Version: 1, Running: 1, Served: true, Goal: 3, Path: []bundle.Version{2, 3}, Obeys: 3}
	e, err := Aim(state, offers)
	if _, ok := e.(Closed); !ok || err != nil {
		t.Errorf("%+v, %v, want Closed", e, err)
	}
}

// A release that is signed anew, with another content, is fetched anew by who is up; who
// is down for it ends as it began. What the node runs it never takes for anything newer.
func TestContentSignedAnew(t *testing.T) {
	chunk := func(word string) bundle.Chunk { return bundle.Chunk{Digest: bundle.Sum([]byte(word)), Length: 1} }
	target := func(words ...string) Target {
		return Target{Goal: 2, Path: []bundle.Version{2}, Manifests: map[bundle.Version]bundle.Chunk{1: chunk(words[0]), 2: chunk(words[1])}}
	}
	for _, phase := range []Phase{Fetching, Waiting, Draining, Transforming, Starting, RollingBack} {
		for name, s := range map[string]State{"": {
			Step: 3, Phase: phase, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Obeys: 2,
			Manifests: target("one", "two").Manifests,
		}, " of before the digests were kept": {
			Step: 3, Phase: phase, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Obeys: 2,
		}} {
			saved, err := s.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if s, err = ParseState(saved); err != nil {
				t.Fatal(err)
			}
			m, err := New(s)
			if err != nil {
				t.Fatal(err)
			}
			m.Step(target("eno", "owt"))
			got, want := m.State(), "two"
			if phase == Fetching || phase == Waiting {
				want = "owt"
				if got.Phase != Fetching || got.Step == s.Step {
					t.Errorf("%s%s: what was signed anew is not fetched", phase, name)
				}
				if name == "" && got.Bound()[1] != chunk("one") {
					t.Errorf("%s: what it runs it takes for another content", phase)
				}
			}
			if name == "" || want == "owt" {
				if got.Manifests[2] != chunk(want) {
					t.Errorf("%s%s: goes on by another content", phase, name)
				}
			}
			if _, bound := got.Bound()[2]; bound != (name == "" && got.Phase.Down()) {
				t.Errorf("%s%s: bound to the content: %v", phase, name, bound)
			}
		}
	}
}

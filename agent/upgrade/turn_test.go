package upgrade

import (
	"testing"

	"moult/gossip/view"
	"moult/store/bundle"
)

// How a soak has ended before a release was taken back tells nothing of it when the rollout
// goes forward again; and while it goes back, what runs is not the release.
func TestSoakBeginsAnewInATurn(t *testing.T) {
	settled := State{Phase: Current, Version: 2, Running: 2, Served: true, Obeys: 2, Soaked: 2, FailedRelease: 2, FailedCount: 1}
	for _, e := range []Event{
		Turn{Release: 2, Turn: 1, Before: 1},
		Reminded{Promises{Turned: view.Turned{Release: 2, Turn: 2}}},
	} {
		m, err := New(settled)
		if err != nil {
			t.Fatal(err)
		}
		m.Step(e)
		if s := m.State(); s.Soaked != 0 || s.FailedRelease != 0 || s.FailedCount != 0 {
			t.Errorf("%T: of its soak it still says %+v", e, s)
		}
	}
	m, err := New(State{Phase: Held, Version: 2, Running: 1, Served: true, Obeys: 2, Goal: 1, Path: []bundle.Version{1}, Done: 1, Reverts: 2})
	if err != nil {
		t.Fatal(err)
	}
	m.Step(Soaked{Release: 2})
	m.Step(SoakFailed{Release: 2, Places: 1})
	if s := m.State(); s.Soaked != 0 || s.FailedRelease != 0 {
		t.Errorf("on the software of version 1 it says how the soak of version 2 ended: %+v", s)
	}
}

// Who was let in to a release that is taken back says so ever after, also where it never
// settled there; who never was does not.
func TestSaysWhereItWasLetIn(t *testing.T) {
	for _, s := range []State{
		{Phase: Current, Version: 1, Running: 1, Served: true},
		{Phase: Held, Version: 1, Running: 2, Served: true, Obeys: 2, Goal: 2, Path: []bundle.Version{2}, Done: 1, EndedRelease: 2, EndedCount: 1},
	} {
		m, err := New(s)
		if err != nil {
			t.Fatal(err)
		}
		m.Step(Turn{Release: 2, Turn: 1, Before: 1})
		if s.Running == 2 {
			for _, e := range []func(step uint64) Event{
				func(n uint64) Event { return Staged{n} }, func(uint64) Event { return Go{1} }, func(n uint64) Event { return Drained{n} },
				func(n uint64) Event { return Transformed{Step: n, To: 1} }, func(n uint64) Event { return Ready{n} },
			} {
				m.Step(e(m.State().Step))
			}
			if s := m.State(); s.Phase != Probing || s.Claims() != 2 {
				t.Errorf("it lets callers in to version 1, and claims %d: %+v", s.Claims(), s)
			}
			m.Step(Admitted{m.State().Step})
			m.Step(Healthy{m.State().Step})
			m.Step(Recorded{m.State().Step})
		}
		if got := m.State(); !got.Turned.Done || got.Version != 1 || got.Claims() != s.Running {
			t.Errorf("it ran version %d, and claims %d: %+v", s.Running, got.Claims(), got)
		}
	}
}

// Who has never served is not installed by what is taken back, but by what came before it.
func TestInstallsNothingTakenBack(t *testing.T) {
	one := Offer{Release: Release{Version: 1, Changes: true}, Order: Ordered}
	two := Offer{Release: Release{Version: 2, Changes: true, From: 1}, Order: TakenBack}
	new := two
	new.From = 0
	other := Offer{Release: Release{Version: 1}, Order: Ordered}
	adopted := Adopted(1)
	adopted.Phase, adopted.Obeys, adopted.Goal, adopted.Path = Fetching, 2, 2, []bundle.Version{2}
	if e, err := Aim(adopted, []Offer{one, two}); err != nil || e != (Closed{Reason: takenBack}) {
		t.Errorf("software that ran before, and is at release 1: %+v, %v", e, err)
	}
	for _, phase := range []Phase{Fetching, Held} {
		s := State{Phase: phase, Obeys: 2, Goal: 2, Path: []bundle.Version{2}}
		if phase == Held {
			s.EndedRelease, s.EndedCount = 2, 1
		}
		for name, c := range map[string]struct {
			offers []Offer
			goal   bundle.Version
		}{"release 1 is there": {[]Offer{one, two}, 1}, "nothing was before it": {[]Offer{new}, 0}, "its class was not before it": {[]Offer{other, new}, 0}} {
			m, err := New(s)
			if err != nil {
				t.Fatal(err)
			}
			e, err := Aim(m.State(), c.offers)
			if err != nil || e == nil {
				t.Errorf("%s, %s: %+v, %v", phase, name, e, err)
				continue
			}
			m.Step(e)
			if got := m.State(); c.goal != 0 && (got.Phase != Fetching || got.Goal != c.goal) || c.goal == 0 && phase == Fetching && got.Phase != Current {
				t.Errorf("%s, %s: %+v", phase, name, got)
			}
		}
	}
}

package upgrade

import (
	"maps"

	"moult/gossip/view"
	"moult/store/bundle"
)

// turn takes in at which turn the order of a release is. A node that is down, or admitting,
// ends its attempt first: the driver repeats Turn after every change. From then on it goes
// down by that turn only, or a later one, or by a later release.
func (m *Machine) turn(e Turn) {
	s := &m.state
	switch s.Phase {
	case Current, Fetching, Rehearsing, Waiting, Held:
	default:
		return
	}
	later := s.Turned.Before(e.Release, e.Turn)
	now := s.Turned.Release == e.Release && s.Turned.Turn == e.Turn
	back := e.Turn%2 == 1
	switch {
	case back && s.Final >= e.Release:
		return // its software may have been told that it is final
	case !s.Served || e.Release < s.Obeys || !later && !now:
		return // nobody misses it yet; or it has promised to obey a later order
	case now && (s.Turned.Done || back && s.Reverts != 0):
		return // that is known
	case now && !back && s.Reverts == 0 && (s.Phase != Current || s.Version < e.Release):
		return // it goes forward, or will to a target
	}
	if later {
		s.promise(view.Turned{Release: e.Release, Turn: e.Turn})
	}
	s.Obeys = max(s.Obeys, e.Release)
	s.Reason = ""
	m.drop()
	switch {
	case !back:
		s.Turned.Done = s.Version >= e.Release // else it goes forward, to a target
	case s.Running == e.Release:
		s.Reverts, s.Goal, s.Path = e.Release, e.Release-1, []bundle.Version{e.Before}
		meant := maps.Clone(s.Manifests)
		if meant == nil {
			meant = map[bundle.Version]bundle.Chunk{}
		}
		if c, ok := e.Manifests[e.Before]; ok {
			meant[e.Before] = c
		}
		if len(meant) > 0 {
			s.Manifests = meant
		}
		m.enter(Fetching)
		return
	default:
		// Nothing of the release runs here, so there is nothing to take back.
		if s.Version >= e.Release {
			s.Said, s.Version = max(s.Said, s.Version), e.Release-1
		}
		s.Turned.Done = true
	}
	m.enter(Current)
}

// finalize carries out, where the node rests at a release, that this will not be taken back.
func (m *Machine) finalize(e Finalize) {
	s := &m.state
	if s.Phase != Current || !s.Served || s.Version != e.Release || s.Running != e.Release || s.Finalized >= e.Release || m.finishing {
		return
	}
	m.finishing = true
	if e.Alone && s.Final < e.Release {
		s.Final, m.save = e.Release, true // before the software is told
	}
	m.do(Finish{s.Step, e.Release})
}

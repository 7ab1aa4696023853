package upgrade

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// ErrFrozen is returned by Way and Aim where the way leads
// through a release that was signed twice, and nothing tells which is meant.
var ErrFrozen = errors.New("a release on the way was signed twice with different content")

// Standing is what a node knows of the rollout order of one release.
type Standing int

// The standings of an order.
const (
	Unordered Standing = iota // the operator has signed none
	Unread                    // there is one, and it has not arrived here
	Ordered                   // it is in force, or paused
	Aborted                   // the operator ended the rollout for good
	TakenBack                 // it is being taken back, or was
)

// Offer is what a node knows of one release whose manifest it has.
type Offer struct {
	Release
	// Installs is true where a node without software may install the release
	// though there is no order for it.
	Installs bool
	Order    Standing
	// Conflict is true where the release was signed twice, differently. It is
	// no goal then; see Aim for when it may be on the way to one.
	Conflict bool
	// Manifest is the digest of the manifest that this node means by the
	// release, of so many bytes; Previous is what that manifest says of the release before.
	Manifest, Previous bundle.Digest
	Length             int64
	// Rehearse is true where it takes this node's class to it with a rehearsal.
	Rehearse bool
}

// open reports whether a node in state s may work towards the release.
func (o Offer) open(s State) bool {
	installs := s.Running == 0 && o.Installs && o.Order == Unordered
	return !o.Conflict && (o.Order == Ordered || installs)
}

// closed reports positive evidence that the release is not to be worked
// towards: that its order is not here proves nothing (promise P9).
func (o Offer) closed() bool { return o.Conflict || o.Order == Aborted }

// Aim returns what the offers, of which no two are for one release, tell the
// machine: Withdrawn, where the attempt under way uses one that is; else Target, with the
// newest release that is open and the path to it; Closed, where the present goal is known to be closed and nothing newer is
// open; or nil. The error is ErrGap for errors.Is where a manifest between is
// not among the offers, and OtherStart where what is withdrawn stands in the way.
//
// An open release that is older than the present goal is no target: the node
// has promised to obey the newer order only. One that has never served, so that nobody
// misses it, turns to it where the present goal is taken back.
//
// A release in conflict is never a goal. It may be on the way to one, or be
// where the node stands, only where the releases after it say which content is
// meant: the next release is not in conflict, or is itself meant by the one
// after it, and names (Previous) the manifest that this node has. So a publisher
// resolves a conflict by publishing the next release on top of the right
// content, and no node runs a transform from or to the wrong one. Where that
// is not so, the error is ErrFrozen; if the node is already on its way there,
// the event is Closed instead.
func Aim(s State, offers []Offer) (Event, error) {
	if e := withdrawn(s, offers); e != nil {
		return e, nil
	}
	present := s.Order()
	var goal bundle.Version
	closed, back := false, false
	for _, o := range offers {
		if o.open(s) {
			goal = max(goal, o.Version)
		}
		closed = closed || (o.Version == present && o.closed())
		back = back || o.Version == present && o.Order == TakenBack && !s.Served
	}
	if back && (goal == 0 || s.Running != 0 && goal <= s.Version) {
		return Closed{Reason: takenBack}, nil
	}
	if present != 0 && !back && (goal < present || goal == s.Reverts) {
		if closed {
			return Closed{Reason: "release closed: its rollout was aborted or it is in conflict"}, nil
		}
		return nil, nil
	}
	if goal == 0 || (s.Running != 0 && goal <= s.Version) {
		return nil, nil
	}
	path, err := Way(s, offers, goal)
	if errors.Is(err, ErrFrozen) && s.Goal == goal {
		return Closed{Reason: fmt.Sprintf("release closed: %v", err)}, nil
	}
	if err != nil {
		return nil, err
	}
	if back && len(path) == 0 {
		return Closed{Reason: takenBack}, nil // of its class there was nothing before
	}
	rehearse := slices.ContainsFunc(offers, func(o Offer) bool { return o.Rehearse && slices.Contains(path, o.Version) })
	return Target{Goal: goal, Path: path, Rehearse: rehearse, Manifests: manifests(offers, append([]bundle.Version{s.Running}, path...))}, nil
}

// Way returns the path of a node in state s to a release. Errors are those of PathTo, and
// ErrFrozen.
func Way(s State, offers []Offer, goal bundle.Version) ([]bundle.Version, error) {
	releases := make([]Release, 0, len(offers))
	for _, o := range offers {
		releases = append(releases, o.Release)
	}
	path, err := PathTo(releases, s.Running, goal)
	if err != nil {
		return nil, err
	}
	from := max(s.Version, 1)
	if s.Running == 0 { // where there is no state, what was before does not matter
		from = goal
		if len(path) > 0 {
			from = path[0]
		}
	}
	if v, ok := ambiguous(offers, from, goal); ok {
		return nil, fmt.Errorf("from version %d to %d: release %d: %w, and no newer release follows the one that is known here; publish the next release on top of the right one", s.Version, goal, v, ErrFrozen)
	}
	return path, nil
}

// takenBack is the reason of a node that was installing a release: what is taken back
// installs nobody.
const takenBack = "release closed: it is taken back"

// manifests lists those of some releases, as far as they are known.
func manifests(offers []Offer, of []bundle.Version) map[bundle.Version]bundle.Chunk {
	m := map[bundle.Version]bundle.Chunk{}
	for _, o := range offers {
		if slices.Contains(of, o.Version) && !o.Manifest.IsZero() {
			m[o.Version] = bundle.Chunk{Digest: o.Manifest, Length: o.Length}
		}
	}
	return m
}

// withdrawn returns the event for an attempt that uses a release which is withdrawn and
// has not been admitted; nil for none.
func withdrawn(s State, offers []Offer) Event {
	switch s.Phase {
	case Fetching, Rehearsing, Waiting, Draining, Transforming, Starting:
	default:
		return nil
	}
	if s.Reverts != 0 {
		return nil // it leads away
	}
	for _, o := range offers {
		if o.Withdrawn && slices.Contains(s.Path, o.Version) {
			return Withdrawn{Reason: fmt.Sprintf("release %d is withdrawn: the next one goes around it", o.Version)}
		}
	}
	return nil
}

// ambiguous returns the newest release of [from, goal] that is in conflict and
// of which the releases after it do not tell which content is meant. The goal
// itself is not in conflict.
func ambiguous(offers []Offer, from, goal bundle.Version) (bundle.Version, bool) {
	byVersion := make(map[bundle.Version]Offer, len(offers))
	for _, o := range offers {
		byVersion[o.Version] = o
	}
	for v := goal; v >= from && v > 0; v-- {
		o := byVersion[v]
		if o.Conflict && (o.Manifest.IsZero() || byVersion[v+1].Previous != o.Manifest) {
			return v, true
		}
	}
	return 0, false
}

// target takes a new goal. A node that is down or admitting finishes its
// attempt first: the driver repeats Target after every change.
func (m *Machine) target(e Target) {
	s := &m.state
	switch s.Phase {
	case Current, Fetching, Rehearsing, Waiting, Held:
	default:
		return
	}
	if len(e.Path) == 0 && s.Running == 0 {
		return // nothing of this class was ever released
	}
	meant := s.meant(e)
	if e.Goal <= s.Version || (e.Goal == s.Goal && slices.Equal(e.Path, s.Path) && e.Rehearse == s.Rehearse && maps.Equal(meant, s.Manifests)) {
		return
	}
	if e.Goal < s.Obeys && (s.Served || s.Said != 0) {
		return // it has promised not to go down under so old an order
	}
	if s.Phase == Held && e.Goal <= s.EndedRelease && (s.Served || e.Goal == s.EndedRelease) {
		return // quarantined here until Retry or a newer release, or until it is taken back
	}
	s.Obeys = max(s.Obeys, e.Goal)
	s.stay()
	s.Goal, s.Path, s.Done, s.Manifests = e.Goal, slices.Clone(e.Path), 0, meant
	s.Rehearse, s.Rehearsed, s.Unable = e.Rehearse, view.Rehearsal{}, 0
	s.Reason, s.Reverts = "", 0
	switch {
	case len(e.Path) > 0:
		m.enter(Fetching)
	case s.Running > s.Version:
		// The release does not change this class, and the software as it runs
		// has been admitted, but never settled: it must prove itself first.
		s.Path, s.Done = []bundle.Version{s.Running}, 1
		m.enter(Probing)
	default:
		// The software as it runs is the software of the goal.
		m.settle(e.Goal)
	}
}

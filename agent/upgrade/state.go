package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Phase is where a node is on its way to a release.
type Phase = view.Phase

// The phases, as package view has them.
const (
	Current      = view.Current
	Fetching     = view.Fetching
	Rehearsing   = view.Rehearsing
	Waiting      = view.Waiting
	Draining     = view.Draining
	Transforming = view.Transforming
	Starting     = view.Starting
	Probing      = view.Probing
	Settled      = view.Settled
	RollingBack  = view.RollingBack
	Held         = view.Held
)

// State is all that the machine must remember. It is a value: the driver saves
// it whole, as JSON, and gives it back to New.
type State struct {
	// Step counts the saves that began a new action. Actions and the events
	// that answer them carry it, so that a late answer is known as such.
	Step  uint64 `json:"step"`
	Phase Phase  `json:"phase"`
	// Version is the settled system version; it goes down only where a release is taken back.
	Version bundle.Version `json:"version"`
	// Running is the release whose software and slot are live; at most
	// Version, except from just before admission to settling (and in a hold
	// that began there), when it is the new one, or the old one where a release is taken
	// back. 0: nothing is installed.
	Running bundle.Version `json:"running"`
	// Served is false until this node has once been up for callers. Until then
	// nobody can miss it, so it asks no schedule.
	Served bool `json:"served"`

	// Goal is the release that the attempt under way leads to; 0 for none.
	Goal bundle.Version `json:"goal,omitempty"`
	// Path lists the releases after Running, up to Goal, that change this
	// node's class, in order. Its last is the software that will run.
	Path []bundle.Version `json:"path,omitempty"`
	// Done counts the elements of Path whose slots are made.
	Done int `json:"done,omitempty"`
	// Manifests says which content the node means by the release that it runs, and by
	// those of Path: a number may be signed again. States that were saved before there
	// was this field have none. The map is shared, and replaced, never changed.
	Manifests map[bundle.Version]bundle.Chunk `json:"manifests,omitempty"`
	// Rehearse is true where a release of Path wants to be rehearsed on a copy of this
	// node's state before the node goes down for it. Rehearsed is what came of the last
	// rehearsal: of this attempt where its Release is Goal.
	Rehearse  bool           `json:"rehearse,omitempty"`
	Rehearsed view.Rehearsal `json:"rehearsed,omitzero"`
	// Unable counts how often the rehearsal of this attempt could not be made.
	Unable int `json:"unable,omitempty"`
	// Reverts is the release that the attempt under way takes back, 0 for none: Goal is then
	// the version before it, and Path the release whose software ran there.
	Reverts bundle.Version `json:"reverts,omitempty"`
	// Back is the phase that a roll-back ends in: Held, or Waiting when the
	// transform asked to be tried later.
	Back Phase `json:"back,omitempty"`

	// Obeys is a promise: never again to go down under an order of an earlier
	// release. It is made only while the node is up.
	Obeys bundle.Version `json:"obeys,omitempty"`
	// EndedRelease and EndedCount: so many attempts at that release ended
	// without settling. They only grow (in that order of significance).
	EndedRelease bundle.Version `json:"ended_release,omitempty"`
	EndedCount   int            `json:"ended_count,omitempty"`
	// Turned is how far the node is with the turns of a release's order. It only rises.
	Turned view.Turned `json:"turned,omitzero"`
	// Said is the newest version that this node is known to have settled at,
	// though its data folder, older than that, no longer shows it, or it has taken that back.
	// What it has said once it goes on saying: peers count on it.
	Said bundle.Version `json:"said,omitempty"`
	// Finalized is the newest release whose finalization has been carried out here.
	Finalized bundle.Version `json:"finalized,omitempty"`
	// Final is the newest release whose finalization began here by the release's own word: it is
	// not taken back any more.
	Final bundle.Version `json:"final,omitempty"`
	// Soaked is the release in whose soak the software was well to the end.
	Soaked bundle.Version `json:"soaked,omitempty"`
	// FailedRelease and FailedCount: in the soak of that release it was not, when the
	// rollout order had so many places for this node.
	FailedRelease bundle.Version `json:"failed_release,omitempty"`
	FailedCount   int            `json:"failed_count,omitempty"`
	// Reason says why the node is held, rolled back or retrying, for people.
	Reason string `json:"reason,omitempty"`
}

// Claims returns the version that the node tells others: it never goes down,
// not even when the state does.
func (s State) Claims() bundle.Version { return max(s.Version, s.Said) }

// Order is the release by whose rollout order the attempt under way goes.
func (s State) Order() bundle.Version {
	if s.Reverts != 0 {
		return s.Reverts
	}
	return s.Goal
}

// inTurn reports whether the attempt under way leads where the turn leads that the node has
// promised to go by. One that began before the data folder became older may not.
func (s State) inTurn() bool {
	return s.Turned.Release != 0 && s.Turned.Release == s.Order() && (s.Turned.Turn%2 == 1) == (s.Reverts != 0)
}

// promise raises Turned. In a later turn the soak begins anew, however it ended before.
func (s *State) promise(t view.Turned) {
	if s.Turned.Before(t.Release, t.Turn) {
		if s.Soaked >= t.Release {
			s.Soaked = 0
		}
		if s.FailedRelease >= t.Release {
			s.FailedRelease, s.FailedCount = 0, 0
		}
	}
	s.Turned = s.Turned.Max(t)
}

// stay notes, when an attempt is given up that takes a release back, that the node is at the
// version before it, where callers have been let in to that.
func (s *State) stay() {
	if s.Reverts != 0 && s.Running < s.Reverts && s.Version >= s.Reverts {
		s.Said, s.Version = max(s.Said, s.Version), s.Reverts-1
	}
}

// Ended counts the attempts that have ended at a release: in the present turn of its order.
func (s State) Ended(release bundle.Version) int {
	switch {
	case s.Turned.Release == release && release != 0:
		return s.Turned.Ended
	case s.EndedRelease == release:
		return s.EndedCount
	}
	return 0
}

// Failed is the release whose order may give a held node another attempt.
func (s State) Failed() bundle.Version {
	if s.Reverts != 0 {
		return s.Reverts
	}
	return s.EndedRelease
}

// admitted reports whether the software of Goal may have been open to callers
// in this attempt, so that its slot may hold acknowledged writes.
func (s State) admitted() bool {
	return len(s.Path) > 0 && s.Running == s.Path[len(s.Path)-1]
}

// FailedSoak reports whether the soak of the settled release has failed when the
// rollout order had so many places for this node, or more.
func (s State) FailedSoak(places int) bool {
	return s.FailedRelease == s.Version && s.FailedCount >= places
}

// Cleared reports whether nothing is left to be rehearsed before the node goes down
// (promise P13).
func (s State) Cleared() bool {
	return !s.Rehearse || s.Rehearsed.Release == s.Goal && s.Rehearsed.Outcome == view.RehearsalOK
}

// Software returns the release whose software the attempt will start.
func (s State) Software() bundle.Version {
	if len(s.Path) == 0 {
		return s.Running
	}
	return s.Path[len(s.Path)-1]
}

// Bound lists the releases whose content is settled for this node, whatever is signed
// since: what it runs, and from when it goes down all that the attempt leads through,
// so that it ends by what it began with.
func (s State) Bound() map[bundle.Version]bundle.Chunk {
	bound := maps.Clone(s.Manifests)
	if !s.Phase.Down() && s.Phase != Probing && s.Phase != Settled {
		maps.DeleteFunc(bound, func(v bundle.Version, _ bundle.Chunk) bool { return v != s.Running })
	}
	return bound
}

// meant is what Manifests says under a target. Of what runs nothing newer is believed.
func (s State) meant(e Target) map[bundle.Version]bundle.Chunk {
	meant := map[bundle.Version]bundle.Chunk{}
	for _, v := range append([]bundle.Version{s.Running}, e.Path...) {
		if c, ok := e.Manifests[v]; ok {
			meant[v] = c
		}
	}
	if c, ok := s.Manifests[s.Running]; ok {
		meant[s.Running] = c
	}
	if len(meant) == 0 {
		return nil // as it is read again
	}
	return meant
}

// Validate reports a state that no machine could have saved.
func (s State) Validate() error {
	if !slices.Contains(view.Phases(), s.Phase) {
		return fmt.Errorf("upgrade state: unknown phase %q", s.Phase)
	}
	if s.Done < 0 || s.Done > len(s.Path) {
		return fmt.Errorf("upgrade state: %d of %d transforms done", s.Done, len(s.Path))
	}
	if !slices.IsSorted(s.Path) {
		return fmt.Errorf("upgrade state: path %v does not rise", s.Path)
	}
	switch s.Phase {
	case Draining, Transforming, Starting, Probing, RollingBack:
		if s.Goal == 0 || len(s.Path) == 0 {
			return fmt.Errorf("upgrade state: phase %q without a goal and a path", s.Phase)
		}
	case Settled:
		if s.Goal != s.Version {
			return fmt.Errorf("upgrade state: settled at %d with goal %d", s.Version, s.Goal)
		}
	}
	return nil
}

// Marshal returns the form that the journal keeps.
func (s State) Marshal() ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// ParseState reads what Marshal wrote.
func ParseState(data []byte) (State, error) {
	if len(data) > maxState {
		return State{}, fmt.Errorf("upgrade state: %d bytes, limit %d", len(data), maxState)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("upgrade state: %w", err)
	}
	return s, s.Validate()
}

// Release is what the machine needs to know of one verified release.
type Release struct {
	Version bundle.Version
	// Changes is true where the release has a class upgrade for this node's class.
	Changes bool
	// Withdrawn is true where it has one that the operator has withdrawn: then the
	// release does not change the class.
	Withdrawn bool
	// From is the version that the class upgrade takes the class from; 0: it installs it.
	From bundle.Version
}

// Restored returns the state of a node whose journal is lost: slot is the
// release of its live slot, and floor what the node had said before. A slot
// that is newer than what was settled had been admitted: its probing goes on.
func Restored(slot bundle.Version, floor Promises) State {
	s := State{
		Phase: Current, Version: slot, Running: slot, Served: true, Said: floor.Settled,
		Obeys: floor.Obeys, EndedRelease: floor.EndedRelease, EndedCount: floor.EndedCount, Turned: floor.Turned, Final: floor.Final,
	}
	if floor.Settled != 0 && slot > floor.Settled {
		s.Phase, s.Version = Probing, floor.Settled
		s.Goal, s.Path, s.Done = slot, []bundle.Version{slot}, 1
	}
	return s
}

// Abandoned is the state of a node whose attempt may have gone further than the disk
// says, or have ended: where callers were not let in to the new software, the attempt
// is rolled back, since its slots may be gone.
func Abandoned(s State) State {
	switch s.Phase {
	case Draining, Transforming, Starting:
		s.Phase, s.Back, s.Reason = RollingBack, Held, "what was written last may be lost, so the attempt begins anew"
		if s.Running != 0 {
			s.Back = Waiting
		}
	}
	return s
}

// Promises are what a node has told others and must not take back.
type Promises struct {
	Settled      bundle.Version
	Obeys        bundle.Version
	EndedRelease bundle.Version
	EndedCount   int
	Turned       view.Turned
	Final        bundle.Version
}

// Raised adds what a state promises. Nothing in it goes down.
func (p Promises) Raised(s State) Promises {
	p.Settled, p.Obeys, p.Turned = max(p.Settled, s.Claims()), max(p.Obeys, s.Obeys), p.Turned.Max(s.Turned)
	p.Final = max(p.Final, s.Final)
	if s.EndedRelease > p.EndedRelease {
		p.EndedRelease, p.EndedCount = s.EndedRelease, 0
	}
	if s.EndedRelease == p.EndedRelease {
		p.EndedCount = max(p.EndedCount, s.EndedCount)
	}
	return p
}

// ErrGap is returned by PathTo where a release between is not known.
var ErrGap = errors.New("a release on the way is not known here")

// OtherStart is the error of PathTo where a release on the way takes the class From
// another version than the one that the node would be At then.
type OtherStart struct{ Release, From, At bundle.Version }

func (e OtherStart) Error() string {
	return fmt.Sprintf("release %d takes the class from version %d, and what is not withdrawn leads to version %d", e.Release, e.From, e.At)
}

// PathTo returns the releases that a node whose live software is of release
// running must take to reach goal: those of (running, goal] that change its
// class. For a node without software it is the last such release alone, since
// there is no state to transform. Each must take the class from the version before it,
// or, where the newest before it that has a class upgrade is withdrawn, from before that.
func PathTo(releases []Release, running, goal bundle.Version) ([]bundle.Version, error) {
	byVersion := make(map[bundle.Version]Release, len(releases))
	for _, r := range releases {
		byVersion[r.Version] = r
	}
	var path []bundle.Version
	if running == 0 {
		for _, r := range releases {
			if r.Changes && r.Version <= goal && (len(path) == 0 || r.Version > path[0]) {
				path = []bundle.Version{r.Version}
			}
		}
		return path, nil
	}
	from, passes := running, false // what the next one must say; whether that is below withdrawn ones
	for v := running + 1; v <= goal; v++ {
		r, ok := byVersion[v]
		if !ok {
			return nil, fmt.Errorf("from version %d to %d: release %d: %w", running, goal, v, ErrGap)
		}
		switch {
		case r.Changes && r.From != 0 && r.From != from:
			return nil, OtherStart{Release: v, From: r.From, At: from}
		case r.Changes:
			path = append(path, v)
			from, passes = v, false
		case r.Withdrawn:
			passes = true
		case !passes:
			from = v
		}
	}
	return path, nil
}

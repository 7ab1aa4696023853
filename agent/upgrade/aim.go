package upgrade

import "moult/store/bundle"

// Standing is what a node knows of the rollout order of one release.
type Standing int

// The standings of an order.
const (
	Unordered Standing = iota // the operator has signed none
	Unread                    // there is one, and it has not arrived here
	Ordered                   // it is in force, or paused
	Aborted                   // the operator ended the rollout for good
)

// Offer is what a node knows of one release whose manifest it has.
type Offer struct {
	Release
	// Installs is true where a node without software may install the release
	// though there is no order for it.
	Installs bool
	Order    Standing
	// Conflict is true where the release was signed twice, differently.
	Conflict bool
}

// open reports whether a node in state s may work towards the release.
func (o Offer) open(s State) bool {
	installs := s.Running == 0 && o.Installs && o.Order == Unordered
	return !o.Conflict && (o.Order == Ordered || installs)
}

// withdrawn reports positive evidence that the release is not to be worked
// towards: that its order is not here proves nothing (promise P9).
func (o Offer) withdrawn() bool { return o.Conflict || o.Order == Aborted }

// Aim returns what the offers, of which no two are for one release, tell the
// machine: Target, with the newest release that is open and the path to it;
// Withdrawn, where the present goal is known to be closed and nothing newer is
// open; or nil. The error is ErrGap for errors.Is where a manifest between is
// not among the offers.
//
// An open release that is older than the present goal is no target: the node
// has promised to obey the newer order only.
func Aim(s State, offers []Offer) (Event, error) {
	var goal bundle.Version
	releases := make([]Release, 0, len(offers))
	closed := false
	for _, o := range offers {
		releases = append(releases, o.Release)
		if o.open(s) {
			goal = max(goal, o.Version)
		}
		closed = closed || (o.Version == s.Goal && o.withdrawn())
	}
	if s.Goal != 0 && goal < s.Goal {
		if closed {
			return Withdrawn{Reason: "release withdrawn: its rollout was aborted or it is in conflict"}, nil
		}
		return nil, nil
	}
	if goal == 0 || (s.Running != 0 && goal <= s.Version) {
		return nil, nil
	}
	path, err := PathTo(releases, s.Running, goal)
	if err != nil {
		return nil, err
	}
	return Target{Goal: goal, Path: path}, nil
}

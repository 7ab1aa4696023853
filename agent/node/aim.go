package node

import (
	"errors"
	"fmt"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// aim tells the machine which release to work towards.
func (n *Node) aim() {
	s := n.machine.State()
	if !n.mayAim(s) {
		return // peers must first bring back what was known
	}
	n.turn()
	if n.waits() {
		return
	}
	s = n.machine.State()
	event, err := upgrade.Aim(s, n.offers())
	text := n.noTurn
	other, fromOther := errors.AsType[upgrade.OtherStart](err)
	switch {
	case errors.Is(err, upgrade.ErrGap) && n.MissingDocuments() > 0 && n.docs.rounds.pause == 0:
		// It is asked for, and may be on its way.
	case fromOther && n.withdrawn().Has(n.cfg.Class, s.Running):
		text = fmt.Sprintf("no way to the newest release: it runs version %d, which is withdrawn", s.Running)
	case fromOther:
		text = fmt.Sprintf("no way to the newest release: %v; `moult withdraw --class %s %d` passes over it, for the next one to say from = %d", err, n.cfg.Class, other.Release, other.At)
	case errors.Is(err, upgrade.ErrFrozen):
		text = fmt.Sprintf("no way to the newest release: %v", err)
	case err != nil:
		text = fmt.Sprintf("no way to the newest release: %v; `moult inject BUNDLE` with the bundle of the missing one, at any peer, brings it", err)
	case event == nil || n.noTurn != "":
	case !s.Served && n.Expired():
		// Nothing new starts on expired metadata; what is there begins as it is.
	default:
		n.step(event)
	}
	n.noWay = text
	n.alarm(causeWay, text)
}

// Bring tells how a release comes here that no peer has.
func Bring(v bundle.Version) string {
	return fmt.Sprintf("`moult inject BUNDLE` with the bundle of release %d, at any peer, brings it", v)
}

// mayAim reports whether there is enough known to choose a release. A node that has
// never served waits until it has heard the ring, or has waited for it long enough.
func (n *Node) mayAim(s upgrade.State) bool {
	heard := n.synced && !n.docs.underWay(n.now) || n.now.Sub(n.started) > n.cfg.FirstSync
	return (s.Served || heard) && !n.doubtful && !n.abstains() && !n.BelowFloor()
}

// offers lists what is known of every release whose manifest is here.
func (n *Node) offers() []upgrade.Offer {
	offers := make([]upgrade.Offer, 0, len(n.docs.manifests))
	for _, v := range sorted(n.docs.manifests) {
		m := n.docs.manifests[v]
		cu, changes := m.Classes[n.cfg.Class]
		offers = append(offers, upgrade.Offer{
			Release:  upgrade.Release{Version: v, Changes: changes, From: cu.From, Withdrawn: n.docs.struck[v]},
			Installs: changes && cu.From == 0,
			Order:    n.standing(v),
			Rehearse: cu.Rehearse != nil,
			Conflict: n.Conflicted(v) || n.disowned(v), Manifest: n.docs.known[v], Length: n.means(v).Length, Previous: m.Previous,
		})
	}
	return offers
}

// ErrWithdrawn is returned by PathTo where the goal is withdrawn for this node's class.
var ErrWithdrawn = errors.New("it is withdrawn, and the next one goes around it")

// PathTo returns the releases that this node would take to one of a bundle, whose manifests
// count where none is known here. Errors are those of upgrade.Way, and ErrWithdrawn.
func (n *Node) PathTo(goal bundle.Version, bundled map[bundle.Version]*bundle.Manifest) ([]bundle.Version, error) {
	withdrawn, class := n.withdrawn(), n.cfg.Class
	if withdrawn.Has(class, goal) {
		return nil, fmt.Errorf("release %d does nothing to class %s any more: %w", goal, class, ErrWithdrawn)
	}
	offers := n.offers()
	for _, v := range sorted(bundled) {
		if m := bundled[v]; n.docs.manifests[v] == nil {
			cu, changes := m.Classes[class]
			struck := changes && withdrawn.Has(class, v)
			offers = append(offers, upgrade.Offer{
				Release:  upgrade.Release{Version: v, Changes: changes && !struck, From: cu.From, Withdrawn: struck},
				Conflict: n.Conflicted(v) || n.disowned(v), Manifest: n.means(v).Digest, Previous: m.Previous,
			})
		}
	}
	return upgrade.Way(n.machine.State(), offers, goal)
}

func (n *Node) standing(v bundle.Version) upgrade.Standing {
	o := n.docs.orders[v]
	if !n.machine.State().Served && n.OrderPending(v) {
		return upgrade.Unread // it asks no schedule, which would wait for the newer one
	}
	if o == nil {
		if _, signed := n.meta.Orders[v]; signed {
			return upgrade.Unread
		}
		return upgrade.Unordered
	}
	if o.State == schedule.StateAborted {
		return upgrade.Aborted
	}
	if o.Back() {
		return upgrade.TakenBack
	}
	return upgrade.Ordered
}

// retry lets a held node try again where the order gives it another attempt.
func (n *Node) retry() {
	s := n.machine.State()
	goal := s.Failed()
	if s.Phase == upgrade.Held && !s.Served && n.standing(goal) == upgrade.TakenBack {
		return // it would be installed to be taken back
	}
	if s.Phase != upgrade.Held || !n.mayAim(s) || n.standing(goal) == upgrade.Aborted || n.standing(goal) == upgrade.Unread || n.Conflicted(goal) {
		return
	}
	o := n.docs.orders[goal]
	again := o != nil && o.Attempts(n.cfg.Class, n.cfg.Self) > s.Ended(goal)
	if n.retriesAlone(s) {
		again = n.now.After(n.notBefore)
	}
	if again {
		n.step(upgrade.Retry{Release: goal})
	}
}

// retriesAlone reports that a node is held after an installation: it tries again by
// itself, a while later, since nobody waits for its turn.
func (n *Node) retriesAlone(s upgrade.State) bool {
	return s.Phase == upgrade.Held && (s.Running == 0 || n.standing(s.Failed()) == upgrade.Unordered)
}

// goOn lets a node go on that has all that it needs, and asks no schedule, since it has never
// served: unless a newer order is signed, for that may be the abort which the node is
// taken to know as soon as it has such metadata (schedule.Obstacles).
func (n *Node) goOn() {
	s := n.machine.State()
	standing := n.standing(s.Goal)
	if n.staged == nil || n.abstains() || n.staged.Step == s.Step && (n.forked || standing == upgrade.Unread || standing == upgrade.Aborted || standing == upgrade.TakenBack) {
		return
	}
	e := *n.staged
	n.staged = nil
	n.step(e)
}

// begin lets a node serve as it is that has never served, where there is no newer
// release to take first.
func (n *Node) begin() {
	if s := n.machine.State(); !s.Served && s.Phase == upgrade.Current && s.Running != 0 && n.mayAim(s) {
		n.step(upgrade.Begin{})
	}
}

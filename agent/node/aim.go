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
	event, err := upgrade.Aim(s, n.offers())
	text := ""
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
	case event == nil:
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
	return (s.Served || heard) && !n.doubtful && !n.BelowFloor()
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
			Conflict: n.Conflicted(v) || n.disowned(v), Manifest: n.docs.known[v], Length: n.means(v).Length, Previous: m.Previous,
		})
	}
	return offers
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
	return upgrade.Ordered
}

// retry lets a held node try again where the order gives it another attempt.
func (n *Node) retry() {
	s := n.machine.State()
	goal := s.EndedRelease
	if s.Phase != upgrade.Held || !n.mayAim(s) || n.standing(goal) == upgrade.Aborted || n.standing(goal) == upgrade.Unread || n.Conflicted(goal) {
		return
	}
	o := n.docs.orders[goal]
	again := o != nil && o.Attempts(n.cfg.Class, n.cfg.Self) > s.EndedCount
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
	return s.Phase == upgrade.Held && (s.Running == 0 || n.standing(s.EndedRelease) == upgrade.Unordered)
}

// goOn lets a node go on that has all that it needs, and asks no schedule, since it has never
// served: unless a newer order is signed, for that may be the abort which the node is
// taken to know as soon as it has such metadata (schedule.Obstacles).
func (n *Node) goOn() {
	s := n.machine.State()
	standing := n.standing(s.Goal)
	if n.staged == nil || n.staged.Step == s.Step && (n.forked || standing == upgrade.Unread || standing == upgrade.Aborted) {
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

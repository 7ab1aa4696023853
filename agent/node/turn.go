package node

import (
	"fmt"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Codes of reasons to wait, beside those of package schedule.
const (
	CodeBelowFloor   = "below-floor"
	CodeOrderPending = "order-pending"
	CodeFork         = "fork"
	CodeLeaves       = "leaves"
	CodeAgentTrial   = "agent-trial"
	CodeApart        = "apart"
	CodeContent      = "content"
	CodeNotReady     = "not-ready"
)

// check is where the node stands with looking, before it goes down, whether it
// could: what can fail should fail while the node serves.
type check struct {
	state checkState
	step  uint64 // of the machine, that it is for
}

type checkState int

const (
	checkNone   checkState = iota
	checkWanted            // the next Ready asks for it
	checkRuns              // it was asked for, and has not ended
	checkPassed            // the node may go, if the schedule still says so
)

// refused forgets that a check has passed: the disk has since had no room.
func (c *check) refused() {
	if c.state == checkPassed {
		c.state = checkNone
	}
}

// checkEnded notes what a check has found. While the disk refuses what is to be
// saved, that is void.
func (n *Node) checkEnded(e CheckEnded) {
	if n.check.state != checkRuns || n.check.step != e.Step {
		return
	}
	n.check.state = checkNone
	switch {
	case e.Problem != "":
		n.wait = schedule.Reason{Code: CodeNotReady, Text: "not ready to go down: " + e.Problem}
		n.notBefore = n.now.Add(retryLater)
	case n.saving != refused && n.machine.State().Step == e.Step:
		n.check.state = checkPassed
	}
}

// schedule asks whether the node may go down now. It may if it passes a check, and
// may still when that has ended.
func (n *Node) schedule() {
	s := n.machine.State()
	passed := n.check.state == checkPassed
	if passed || n.check.state == checkWanted {
		n.check.state = checkNone
	}
	switch s.Phase {
	case upgrade.Rehearsing:
		n.rehearse(s)
		return
	case upgrade.Waiting:
	default:
		n.wait, n.tally = schedule.Reason{}, nil
		return
	}
	d := n.may(s, n.cfg.Rules.Decide)
	if !d.Go {
		n.wait = d.Reason
		return
	}
	switch {
	case passed:
		n.wait = schedule.Reason{}
		n.step(upgrade.Go{Goal: s.Goal})
	case n.check.state == checkNone && !n.now.Before(n.notBefore):
		if n.wait.Code != CodeNotReady { // else a check that fails again would be two records
			n.wait = schedule.Reason{}
		}
		n.check = check{state: checkWanted, step: s.Step}
	}
}

// rehearse has the node rehearse when the schedule lets it, and no longer where it would not
// let it begin: the operator has paused the rollout, or skipped the node. That it is
// another's turn, or that something is on its way here, interrupts nothing.
func (n *Node) rehearse(s upgrade.State) {
	d := n.may(s, n.cfg.Rules.MayRehearse)
	switch d.Reason.Code {
	case schedule.CodeGo:
		n.step(upgrade.MayRehearse{Goal: s.Goal})
	case schedule.CodeTurn, CodeOrderPending, CodeContent:
	default:
		n.step(upgrade.Interrupt{})
	}
	n.wait = d.Reason
	if n.machine.Rehearses() {
		n.wait = schedule.Reason{}
	}
}

// may asks a rule of the schedule, where this node knows what is in force.
func (n *Node) may(s upgrade.State, rule func(schedule.Input) schedule.Decision) schedule.Decision {
	switch {
	case n.BelowFloor():
		return schedule.Decision{Reason: schedule.Reason{Code: CodeBelowFloor, Text: "this peer has lost metadata that it had accepted, and waits for peers to bring them back"}}
	case n.left:
		return schedule.Decision{Reason: schedule.Reason{Code: CodeLeaves, Text: "its agent leaves the ring"}}
	case n.Apart() != "":
		return schedule.Decision{Reason: schedule.Reason{Code: CodeApart, Text: n.Apart()}}
	case n.trial:
		return schedule.Decision{Reason: schedule.Reason{Code: CodeAgentTrial, Text: "another build of its agent is on trial, and nothing begins until it is known whether that is well"}}
	case n.forked:
		return schedule.Decision{Reason: schedule.Reason{Code: CodeFork, Text: fmt.Sprintf("two sets of metadata with number %d are signed, perhaps with two rollout orders; it waits for the next one (`moult trust refresh` signs one)", n.meta.Timestamp)}}
	case n.OrderPending(s.Order()):
		return schedule.Decision{Reason: schedule.Reason{Code: CodeOrderPending, Text: "a newer rollout order is signed, and is not in force here: it has not arrived yet, or is refused, which `moult status` shows as an alarm"}}
	case !n.arrived(s):
		return schedule.Decision{Reason: schedule.Reason{Code: CodeContent, Text: "a release on its path has been signed again, and the new content has not arrived here yet"}}
	}
	return rule(n.Asks())
}

// Asks is what the node asks the schedule by, of the order by which it goes now, with the tally
// that it keeps of that.
func (n *Node) Asks() schedule.Input {
	in := n.Input(n.machine.State().Order())
	in.Tally = n.tallyOf(in.Order)
	return in
}

// tallyOf is what the view comes to under an order. It is kept for as long as the node asks by
// that order, and heard tells it what others say; of this node what it is to say now counts.
func (n *Node) tallyOf(o *schedule.Order) *schedule.Tally {
	if o == nil {
		return nil
	}
	if !n.tally.Of(o) {
		n.tally = schedule.NewTally(o, n.lookup)
	}
	n.tally.NoteAll([]bundle.NodeID{n.cfg.Self}, n.lookup)
	return n.tally
}

// heard has all that is counted by records take in what is known of a node now.
func (n *Node) heard(id bundle.NodeID) {
	n.noteSaid(id)
	r, known := n.view.Get(id)
	n.names.note(id, r.Name)
	if n.tally != nil && id != n.cfg.Self {
		n.tally.Note(id, r, known)
	}
	if n.newest != nil && id != n.cfg.Self {
		n.newest.Note(id, r, known)
	}
}

// arrived reports that what the node would go through is what is signed now.
func (n *Node) arrived(s upgrade.State) bool {
	for _, v := range s.Path {
		if c, ok := s.Manifests[v]; ok && n.docs.known[v] != c.Digest {
			return false
		}
	}
	return true
}

// Input is what schedule.Decide needs to know about this node and a release.
func (n *Node) Input(release bundle.Version) schedule.Input {
	return schedule.Input{
		Self: n.cfg.Self, Class: n.cfg.Class, Order: n.docs.orders[release],
		Lookup: n.lookup,
		SettledFor: func(id bundle.NodeID) time.Duration {
			if at, ok := n.doneAt[settlement{id, release}]; ok {
				return n.now.Sub(at)
			}
			return 0
		},
		Reachable: n.Alive, Name: n.NameOf, Ask: n.ask(n.docs.orders[release]),
		Now: n.now, Zone: n.cfg.Zone, Idle: n.Idle(release, n.cfg.Class),
		Synced: n.synced, Expired: n.Expired(), Conflict: n.Conflicted(release),
	}
}

// lookup returns what a node said of itself; of this node, what its machine has made
// durable.
func (n *Node) lookup(id bundle.NodeID) (view.Record, bool) {
	if id == n.cfg.Self {
		return n.record(), true
	}
	return n.view.Get(id)
}

// Waits is why the node waits, as last decided; the zero Reason where it does not.
func (n *Node) Waits() schedule.Reason { return n.wait }

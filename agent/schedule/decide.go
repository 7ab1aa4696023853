package schedule

import (
	"fmt"
	"slices"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Input is what a decision rests on.
type Input struct {
	Self  bundle.NodeID
	Class bundle.Class
	// Order is the newest rollout order that this agent knows; nil for none.
	Order *Order
	// Lookup returns what a node said of itself last, verified. For Self it
	// must be what the node's machine has made durable, nothing older: the
	// node's own place in the roster follows from it.
	Lookup func(bundle.NodeID) (view.Record, bool)
	// SettledFor says how long this agent has seen a node at the order's
	// release, by its own clock; 0 where it does not know. It is the soak of
	// canaries that do not say themselves that theirs has passed, since an older
	// moult looks after them; nil is 0 for all.
	SettledFor func(bundle.NodeID) time.Duration
	// Reachable tells for whom a wait may last: the reason's command is about
	// an unreachable node, if there is one. nil: not known. For people only.
	Reachable func(bundle.NodeID) bool
	// Name is what commands call a node; nil: what it calls itself. For people only.
	Name func(bundle.NodeID) string
	// Synced is true once this agent has compared views with a peer since it
	// started. Expired and Conflict are about the trust metadata of the release.
	Synced, Expired, Conflict bool
}

// Decision says whether the node may go down now, and why.
type Decision struct {
	Go     bool
	Reason Reason
}

// Codes of a reason. Append only.
const (
	CodeGo         = "go"
	CodeNoOrder    = "no-order"    // there is no rollout order
	CodeNoRecord   = "no-record"   // the node has not said anything of itself
	CodeDone       = "done"        // it is at the release, or past it
	CodeNewerOrder = "newer-order" // it has promised to obey a newer order only
	CodeConflict   = "conflict"    // the release is signed twice, differently
	CodeExpired    = "expired"     // the trust metadata have expired
	CodeNotSynced  = "not-synced"  // no exchange with a peer yet
	CodeAborted    = "aborted"
	CodePaused     = "paused"
	CodeNotInOrder = "not-in-order"
	CodeSkipped    = "skipped"
	CodeUsedUp     = "used-up"     // every attempt has ended
	CodeNotStarted = "not-started" // manual: not started by the operator
	CodeStopped    = "stopped"     // too many nodes have failed
	CodeCanary     = "canary"      // the canaries have not all settled
	CodeSoak       = "soak"        // they have not been settled, and well, for long enough
	CodeUnwell     = "unwell"      // nodes that have settled are not well
	CodeBudget     = "budget"      // as many as allowed are, or may be, down
)

// Reason explains a decision to people.
type Reason struct {
	Code string
	Text string
	// Nodes are those that are waited for, or have failed, by rank.
	Nodes []bundle.NodeID
	// Command is what an operator can run to change the decision; empty where
	// nothing but time, or the work of other nodes, does.
	Command string
	// Retry is the time after which to ask again though nothing has changed; 0
	// for never.
	Retry time.Duration
}

// Decide says whether the node may go down now. It is a function of its
// arguments; the package doc has the rule and its proof.
func Decide(in Input) Decision { return theRule().decide(in) }

// rule has the parts of the rule that promise P4 rests on, apart, so that
// tests can break each and see that it matters.
type rule struct {
	// before reports whether a place of rank other comes before the node's own.
	before func(other, own int) bool
	// done reports whether a node will never again be down for a place.
	done func(release bundle.Version, attempt int, rec view.Record, known bool) bool
	// past reports whether a node will never again be down under an order
	// before that of release, the newest of which is that of previous.
	past func(previous, release bundle.Version, rec view.Record, known bool) bool
	// attempt is the number of the next attempt of a node.
	attempt func(release bundle.Version, own view.Record) int
	// within reports whether so many nodes that may be down leave room for one more.
	within func(others, k int) bool
}

func theRule() rule {
	return rule{
		before: func(other, own int) bool { return other < own },
		done: func(release bundle.Version, attempt int, rec view.Record, known bool) bool {
			return known && (rec.Version >= release || rec.Obeys > release ||
				(rec.Ended.Release == release && rec.Ended.Count >= attempt))
		},
		past: func(previous, release bundle.Version, rec view.Record, known bool) bool {
			return known && (rec.Version >= previous || rec.Obeys > previous)
		},
		attempt: func(release bundle.Version, own view.Record) int {
			if own.Ended.Release != release {
				return 1
			}
			return own.Ended.Count + 1
		},
		within: func(others, k int) bool { return others < k },
	}
}

// decide asks the questions in this order: is there anything to do, has the
// operator said that it may be done, is it this node's turn.
func (ru rule) decide(in Input) Decision {
	if in.Order == nil {
		return wait(CodeNoOrder, "there is no rollout order for the release yet", "moult inject BUNDLE")
	}
	d := decision{Input: in, rule: ru, order: in.Order, class: in.Order.Classes[in.Class]}
	own, known := in.Lookup(in.Self)
	if !known {
		return wait(CodeNoRecord, "this node has not published its status yet", "")
	}
	d.own = own
	for _, question := range []func() (Decision, bool){d.needed, d.trusted, d.allowed, d.inRoster, d.notStopped, d.afterCanaries, d.overUnwell} {
		if answer, no := question(); no {
			return answer
		}
	}
	return d.withinBudget()
}

// decision is one decision in the making.
type decision struct {
	Input
	rule   rule
	order  *Order
	class  ClassOrder
	own    view.Record
	places []place // of the class, by rank
	place  place   // the node's own
}

func wait(code, text, command string) Decision {
	return Decision{Reason: Reason{Code: code, Text: text, Command: command}}
}

func (d *decision) needed() (Decision, bool) {
	switch release := d.order.Release; {
	case d.own.Version >= release:
		return wait(CodeDone, fmt.Sprintf("it is at version %d already", d.own.Version), ""), true
	case d.own.Obeys > release:
		return wait(CodeNewerOrder, fmt.Sprintf("it works towards release %d, no longer towards %d", d.own.Obeys, release), ""), true
	}
	return Decision{}, false
}

func (d *decision) trusted() (Decision, bool) {
	switch release := d.order.Release; {
	case d.Conflict:
		return wait(CodeConflict, fmt.Sprintf("the publisher has signed two different releases %d: neither is started", release), "moult inject BUNDLE"), true
	case d.Expired:
		return wait(CodeExpired, "the trust metadata have expired: nothing new is started", "moult trust refresh"), true
	case !d.Synced:
		return wait(CodeNotSynced, "it has not compared its view with a peer since it started", "moult join HOST:PORT"), true
	}
	return Decision{}, false
}

func (d *decision) allowed() (Decision, bool) {
	switch release := d.order.Release; d.order.State {
	case StateRunning:
		return Decision{}, false
	case StatePaused:
		return wait(CodePaused, fmt.Sprintf("the rollout of release %d is paused", release), fmt.Sprintf("moult resume --release %d", release)), true
	default:
		return wait(CodeAborted, fmt.Sprintf("the rollout of release %d is %s for good: a newer release takes its place", release, d.order.State), "moult inject BUNDLE"), true
	}
}

// inRoster finds the place that the node's next attempt has.
func (d *decision) inRoster() (Decision, bool) {
	release := d.order.Release
	retry := fmt.Sprintf("moult retry --release %d %s", release, d.name(d.Self))
	next, has := d.rule.attempt(release, d.own), d.class.attempts(d.Self)
	switch {
	case !d.class.names(d.Self):
		return wait(CodeNotInOrder, fmt.Sprintf("it is not in the rollout order of release %d", release), retry), true
	case has == 0:
		return wait(CodeSkipped, fmt.Sprintf("the operator has skipped it in the rollout of release %d", release), retry), true
	case next > has:
		return wait(CodeUsedUp, fmt.Sprintf("%d of its attempts at release %d have ended, and the order allows %d", next-1, release, has), retry), true
	}
	d.places = d.class.ranked()
	for _, p := range d.places {
		if p.node == d.Self && !p.skipped && p.attempt == next {
			d.place = p
			return Decision{}, false
		}
	}
	return wait(CodeNotStarted, "its class is upgraded by hand, and the operator has not started it",
		fmt.Sprintf("moult start --release %d %s", release, d.name(d.Self))), true
}

// notStopped holds the rollout of the class when too many nodes have failed.
func (d *decision) notStopped() (Decision, bool) {
	failed := d.class.failed(d.order.Release, d.Lookup)
	if d.class.FailureMax == 0 || len(failed) < d.class.FailureMax {
		return Decision{}, false
	}
	text := fmt.Sprintf("the rollout of class %s has stopped: release %d has failed on %s", d.Class, d.order.Release, d.names(failed))
	return Decision{Reason: Reason{
		Code: CodeStopped, Text: text, Nodes: failed,
		Command: fmt.Sprintf("moult retry --release %d %s", d.order.Release, d.name(failed[0])),
	}}, true
}

// afterCanaries makes all but the first Canary places wait until those are
// over, and those that settled have been well for Soak.
func (d *decision) afterCanaries() (Decision, bool) {
	if d.place.rank >= d.class.Canary {
		if answer, no := d.canariesDone(); no {
			return answer, true
		}
		return d.canariesSoaked()
	}
	return Decision{}, false
}

func (d *decision) canaries() []place { return d.places[:min(d.class.Canary, len(d.places))] }

func (d *decision) canariesDone() (Decision, bool) {
	var open []bundle.NodeID
	for _, p := range d.canaries() {
		if rec, ok := d.Lookup(p.node); !p.skipped && p.node != d.Self && !d.rule.done(d.order.Release, p.attempt, rec, ok) {
			open = append(open, p.node)
		}
	}
	if len(open) == 0 {
		return Decision{}, false
	}
	return Decision{Reason: Reason{
		Code: CodeCanary, Text: "it waits for the first nodes to settle: " + d.names(open), Nodes: open, Command: d.skip(open),
	}}, true
}

func (d *decision) canariesSoaked() (Decision, bool) {
	var longest time.Duration
	var soaking []bundle.NodeID
	for _, p := range d.canaries() {
		rec, ok := d.Lookup(p.node)
		if p.skipped || !ok || rec.Left || rec.Version < d.order.Release || hasFailed(d.order.Release, d.class.attempts(p.node), rec) {
			continue // gone, held, or failed: then the failure budget decides, or the operator
		}
		var since time.Duration
		if d.SettledFor != nil {
			since = max(0, d.SettledFor(p.node))
		}
		left := max(0, time.Duration(d.class.Soak)-since)
		passed := left == 0
		if rec.Health.State != "" { // it says itself whether it was well meanwhile
			passed = d.class.Soak == 0 || rec.Health.Soaked >= d.order.Release // of this order, or a later one
		}
		if !passed {
			soaking = append(soaking, p.node)
			longest = max(longest, left)
		}
	}
	if len(soaking) == 0 {
		return Decision{}, false
	}
	text := fmt.Sprintf("it waits until the first nodes have been settled, and well, for %s: %s", d.class.Soak, d.names(soaking))
	return Decision{Reason: Reason{Code: CodeSoak, Text: text, Nodes: soaking, Command: d.skip(soaking), Retry: longest}}, true
}

// overUnwell makes it wait while settled nodes are not well, a canary, or as many as may
// fail: what they suffer from, the next may. A few of a large fleet are always unwell.
func (d *decision) overUnwell() (Decision, bool) {
	if d.class.Strategy == bundle.StrategyAtOnce {
		return Decision{}, false
	}
	var unwell []bundle.NodeID
	failed, canary := 0, false
	isCanary := func(id bundle.NodeID) bool {
		return slices.ContainsFunc(d.canaries(), func(p place) bool { return p.node == id })
	}
	for _, m := range d.class.members() {
		rec, ok := d.Lookup(m.id)
		switch {
		case !ok || m.attempts == 0:
		case !rec.Left && rec.Version >= d.order.Release && rec.Health.Unwell():
			unwell = append(unwell, m.id)
			canary = canary || isCanary(m.id)
		case hasFailed(d.order.Release, m.attempts, rec):
			failed++
		}
	}
	if len(unwell) == 0 || !canary && len(unwell)+failed < d.class.FailureMax {
		return Decision{}, false
	}
	return Decision{Reason: Reason{
		Code: CodeUnwell, Text: "it waits until those that have settled are well: " + d.names(unwell), Nodes: unwell,
		Command: fmt.Sprintf("moult skip --release %d %s", d.order.Release, d.name(unwell[0])),
	}}, true
}

// withinBudget is the rule that promise P4 rests on.
func (d *decision) withinBudget() Decision {
	k := d.class.MaxUnavailable
	if d.class.Strategy == bundle.StrategyAtOnce {
		return Decision{Go: true, Reason: Reason{Code: CodeGo, Text: fmt.Sprintf("class %s is upgraded at once, which bounds nothing", d.Class)}}
	}
	others := d.mayBeDown()
	if d.rule.within(len(others), k) {
		return Decision{Go: true, Reason: Reason{Code: CodeGo, Nodes: others,
			Text: fmt.Sprintf("it may go: of class %s at most %d may be down at once, and %s", d.Class, k, howMany(len(others)))}}
	}
	text := fmt.Sprintf("it waits for %s: at most %d of class %s may be down at once", d.names(others), k, d.Class)
	return Decision{Reason: Reason{Code: CodeBudget, Text: text, Nodes: others, Command: d.skip(others)}}
}

// howMany tells how many other nodes may be down.
func howMany(others int) string {
	switch others {
	case 0:
		return "no other is"
	case 1:
		return "one other may be"
	}
	return fmt.Sprintf("%d others may be", others)
}

// mayBeDown returns every other node of which this agent does not know that it
// is up and stays up until this node is done: those with an open place of
// lower rank, and those that may be down under an earlier order. By rank.
func (d *decision) mayBeDown() []bundle.NodeID {
	var nodes []bundle.NodeID
	counted := map[bundle.NodeID]bool{d.Self: true}
	add := func(id bundle.NodeID) {
		if !counted[id] {
			counted[id] = true
			nodes = append(nodes, id)
		}
	}
	for _, p := range d.places {
		if !d.rule.before(p.rank, d.place.rank) || p.skipped || counted[p.node] {
			continue
		}
		if rec, ok := d.Lookup(p.node); !d.rule.done(d.order.Release, p.attempt, rec, ok) {
			add(p.node)
		}
	}
	if d.order.Previous == 0 {
		return nodes
	}
	skipped := d.class.isSkipped()
	for i, id := range d.class.Roster {
		if skipped[i] || counted[id] {
			continue
		}
		if rec, ok := d.Lookup(id); !d.rule.past(d.order.Previous, d.order.Release, rec, ok) {
			add(id)
		}
	}
	return nodes
}

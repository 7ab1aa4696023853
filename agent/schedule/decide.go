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
	// Tally, if not nil, is kept of Order and of what Lookup says by whoever asks: then no
	// question looks at every node.
	Tally *Tally
	// SettledFor says how long this agent has seen a node at the order's
	// release, by its own clock; 0 where it does not know. It is the soak of
	// canaries that do not say themselves that theirs has passed, since an older
	// moult looks after them; nil is 0 for all.
	SettledFor func(bundle.NodeID) time.Duration
	// Idle is for how long the rollout of Class has not got on though it could (see
	// [Tally.Idles]), as this agent has seen it.
	Idle time.Duration
	// Reachable tells for whom a wait may last: the reason's command is about
	// an unreachable node, if there is one. nil: not known. For people only.
	Reachable func(bundle.NodeID) bool
	// Name is what commands call a node; nil: what it calls itself. For people only.
	Name func(bundle.NodeID) string
	// Ask says what a condition of the class's order (When, HoldIf) says of a node, by the
	// facts that are known; nil: nothing is known. Whoever gives it evaluates the
	// conditions (package expr), and remembers what they say until something else is known:
	// it is called for each decision.
	Ask func(class bundle.Class, self bundle.NodeID, condition string) Said
	// Now is the time by the node's clock, and Zone finds a time zone by its name. They
	// are for windows.
	Now  time.Time
	Zone func(name string) (*time.Location, error)
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
	CodeRehearsals = "rehearsals"  // others that can be reached have not rehearsed the release
	CodeTurn       = "turn"        // as many as may be rehearse the release now
	CodeUnwell     = "unwell"      // nodes that have settled are not well
	CodeBudget     = "budget"      // as many as allowed are, or may be, down
	CodeWindow     = "window"      // no window is open
	CodeAfter      = "after"       // classes that settle first have not
	CodeHoldIf     = "hold-if"     // the condition that holds the rollout is true, or cannot be read
	CodeWhen       = "when"        // the condition under which nodes go is not
	CodeChance     = "chance"      // random: its number has not come up
	CodeSpread     = "spread"      // as many of its zone, or the like, are, or may be, down
	CodeFinal      = "final"       // it is taken back, and nodes have finalized it by its own word
	CodePromise    = "promise"     // it has not promised yet to go by this turn of the order
)

// Reason explains a decision to people.
type Reason struct {
	Code string
	Text string
	// Note is what a condition could not hold back, and why; "" for nothing.
	Note string
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
	// turnDone and turnPast are done and past for orders of later turns than the first, and
	// pastTurns is past where the order before is one.
	turnDone  func(o *Order, attempt int, rec view.Record, known bool) bool
	turnPast  func(o *Order, rec view.Record, known bool) bool
	pastTurns func(o *Order, rec view.Record, known bool) bool
	// promised reports whether the node has promised to go by later turns of the order only.
	promised func(o *Order, own view.Record) bool
	// within reports whether so many nodes that may be down leave room for one more.
	within func(others, k int) bool
	// near reports whether two places may be of nodes that share a value.
	near func(s *Spread, i, j int) bool
}

func theRule() rule {
	return rule{
		before: func(other, own int) bool { return other < own },
		done: func(release bundle.Version, attempt int, rec view.Record, known bool) bool {
			return known && (rec.Version >= release || rec.Obeys > release || rec.Turned.Release == release ||
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
		turnDone: turnDone, turnPast: turnPast, pastTurns: pastTurns,
		promised: func(o *Order, own view.Record) bool {
			return own.Turned.Release == o.Release && own.Turned.Turn > o.Turn
		},
		within: func(others, k int) bool { return others < k },
		near:   (*Spread).near,
	}
}

// decide asks the questions in this order: is there anything to do, has the
// operator said that it may be done, is it this node's turn. What holds the rollout comes before
// what passes by itself, as a soak: whoever asks is told at once.
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
	if !d.Tally.Of(d.order) {
		d.Tally = ru.tally(d.order, d.Lookup)
	}
	d.counts = d.Tally.of(d.Class)
	for _, question := range []func() (Decision, bool){d.needed, d.trusted, d.allowed, d.notFinal, d.mayTry, d.inRoster, d.notStopped, d.afterRehearsals, d.heldBack, d.afterClasses, d.inWindow, d.afterWaves, d.overUnwell, d.awaited, d.byChance} {
		if answer, no := question(); no {
			return answer
		}
	}
	answer := d.withinBudget()
	answer.Reason.Note = d.unheld
	return answer
}

// decision is one decision in the making.
type decision struct {
	Input
	rule   rule
	order  *Order
	class  ClassOrder
	own    view.Record
	counts *counts // of the class
	place  place   // the node's own
	now    bool    // the node's own place waits neither for windows, nor for classes, nor for conditions
	unheld string  // see Reason.Note
}

func wait(code, text, command string) Decision {
	return Decision{Reason: Reason{Code: code, Text: text, Command: command}}
}

func (d *decision) needed() (Decision, bool) {
	switch release := d.order.Release; {
	case d.order.Turn > 0 && d.own.Obeys <= release:
		return d.turned()
	case d.own.Version >= release:
		return wait(CodeDone, fmt.Sprintf("it is at version %d already", d.own.Version), ""), true
	case d.own.Obeys > release:
		return wait(CodeNewerOrder, fmt.Sprintf("it works towards release %d, no longer towards %d", d.own.Obeys, release), ""), true
	case d.rule.promised(d.order, d.own): // whatever its Version: it may never have gone down
		return wait(CodeNewerOrder, fmt.Sprintf("it goes by a later order of release %d", release), ""), true
	}
	return Decision{}, false
}

func (d *decision) trusted() (Decision, bool) {
	switch release := d.order.Release; {
	case d.Conflict:
		return wait(CodeConflict, fmt.Sprintf("the publisher has signed two different releases %d: neither is started", release), "moult inject BUNDLE"), true
	case d.Expired && !d.order.Back(): // it goes back by what it has gone forward by
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
		return wait(CodePaused, d.order.what()+" is paused", fmt.Sprintf("moult resume --release %d", release)), true
	default:
		return wait(CodeAborted, fmt.Sprintf("%s is %s for good: a newer release takes its place", d.order.what(), d.order.State), "moult inject BUNDLE"), true
	}
}

// mayTry asks whether the order gives the node another attempt.
func (d *decision) mayTry() (Decision, bool) {
	release := d.order.Release
	retry := fmt.Sprintf("moult retry --release %d %s", release, d.name(d.Self))
	next := d.rule.next(d.order, d.own)
	has, named := d.counts.attempts(d.Self)
	switch {
	case !named:
		return wait(CodeNotInOrder, fmt.Sprintf("it is not in the rollout order of release %d", release), retry), true
	case has == 0:
		return wait(CodeSkipped, fmt.Sprintf("the operator has skipped it in the rollout of release %d", release), retry), true
	case next > has:
		return wait(CodeUsedUp, fmt.Sprintf("%d of its attempts at release %d have ended, and the order allows %d", next-1, release, has), retry), true
	}
	return Decision{}, false
}

// inRoster finds the place that the node's next attempt has.
func (d *decision) inRoster() (Decision, bool) {
	release, next := d.order.Release, d.rule.next(d.order, d.own)
	if p, started := d.counts.place(d.Self, next); started {
		d.place = p
		d.now = slices.Contains(d.class.Now, d.class.index(p))
		return Decision{}, false
	}
	return wait(CodeNotStarted, "its class is upgraded by hand, and the operator has not started it",
		fmt.Sprintf("moult start --release %d %s", release, d.name(d.Self))), true
}

// notStopped holds the rollout of the class when too many nodes have failed.
func (d *decision) notStopped() (Decision, bool) {
	idle := 0
	if by := d.class.ProgressDeadline; by > 0 && d.Idle >= time.Duration(by) && !d.order.Back() {
		idle = 1
	}
	if d.class.FailureMax == 0 || d.counts.failed.n+idle < d.class.FailureMax {
		return Decision{}, false
	}
	if d.counts.failed.n < d.class.FailureMax {
		return wait(CodeStopped, fmt.Sprintf("the rollout of class %s has stopped: no node has newly settled for %s, and %s is allowed; `moult pause --release %d`, and then resume, gives it as long again", d.Class, bundle.Duration(d.Idle.Round(time.Second)), d.class.ProgressDeadline, d.order.Release),
			fmt.Sprintf("moult pause --release %d", d.order.Release)), true
	}
	var failed []bundle.NodeID
	for m := range d.counts.failed.all(0, len(d.counts.members)) {
		failed = append(failed, d.counts.members[m].id)
	}
	text := fmt.Sprintf("the rollout of class %s has stopped: %s %d has failed on %s", d.Class, d.order.direction(), d.order.Release, d.names(failed))
	return Decision{Reason: Reason{
		Code: CodeStopped, Text: text, Nodes: failed,
		Command: fmt.Sprintf("moult retry --release %d %s", d.order.Release, d.name(failed[0])),
	}}, true
}

// afterWaves makes it wait until the places of each wave before its own are over, and
// those that settled have been well for the wave's soak.
func (d *decision) afterWaves() (Decision, bool) {
	if d.order.Back() {
		return Decision{}, false
	}
	from := 0
	for i, w := range d.class.waves() {
		if d.place.rank < w.UpTo {
			break
		}
		if answer, no := d.waveDone(from, w.UpTo, i+1); no {
			return answer, true
		}
		if answer, no := d.waveSoaked(from, w.UpTo, i+1, w.Soak); no {
			return answer, true
		}
		from = w.UpTo
	}
	return Decision{}, false
}

// waveDone makes it wait for the open places of a wave, from one rank to another.
func (d *decision) waveDone(from, upTo, number int) (Decision, bool) {
	var open []bundle.NodeID
	for rank := range d.counts.open.all(from, upTo) {
		if id := d.counts.places[rank].node; id != d.Self {
			open = append(open, id)
		}
	}
	if len(open) == 0 {
		return Decision{}, false
	}
	return Decision{Reason: Reason{
		Code: CodeCanary, Text: "it waits for " + waveWords(number) + " to settle: " + d.names(open), Nodes: open, Command: d.skip(open),
	}}, true
}

// waveSoaked makes it wait for those of a wave that have settled: not for who is gone, held,
// or has failed, for then the failure budget decides, or the operator.
func (d *decision) waveSoaked(from, upTo, number int, soak bundle.Duration) (Decision, bool) {
	var longest time.Duration
	var soaking []bundle.NodeID
	for rank := range d.counts.soaking.all(from, upTo) {
		p := d.counts.places[rank]
		rec, _ := d.Lookup(p.node)
		var since time.Duration
		if d.SettledFor != nil {
			since = max(0, d.SettledFor(p.node))
		}
		left := max(0, time.Duration(soak)-since)
		passed := left == 0
		if rec.Health.State != "" { // it says itself whether it was well meanwhile
			passed = soak == 0 || rec.Health.Soaked >= d.order.Release // of this order, or a later one
		}
		if !passed {
			soaking = append(soaking, p.node)
			longest = max(longest, left)
		}
	}
	if len(soaking) == 0 {
		return Decision{}, false
	}
	text := fmt.Sprintf("it waits until %s have been settled, and well, for %s: %s", waveWords(number), soak, d.names(soaking))
	return Decision{Reason: Reason{Code: CodeSoak, Text: text, Nodes: soaking, Command: d.skip(soaking), Retry: longest}}, true
}

// overUnwell makes it wait while settled nodes are not well, a canary, or as many as may
// fail: what they suffer from, the next may. A few of a large fleet are always unwell.
func (d *decision) overUnwell() (Decision, bool) {
	if d.class.Strategy == bundle.StrategyAtOnce || d.order.Back() || d.counts.unwell.n == 0 {
		return Decision{}, false
	}
	var unwell []bundle.NodeID
	failed, canary := d.counts.failed.n, false
	for m := range d.counts.unwell.all(0, len(d.counts.members)) {
		unwell = append(unwell, d.counts.members[m].id)
		canary = canary || d.counts.within(m, d.class.Canaries())
		if d.counts.failed.has(m) {
			failed-- // it is counted once
		}
	}
	if !canary && len(unwell)+failed < d.class.FailureMax {
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
	if !d.class.Bounds() {
		return Decision{Go: true, Reason: Reason{Code: CodeGo, Text: fmt.Sprintf("class %s is upgraded by strategy %s, which bounds nothing", d.Class, d.class.Strategy)}}
	}
	others, near := d.mayBeDown()
	if s := d.class.Spread; s != nil && d.rule.within(len(others), k) && !d.rule.within(len(near), s.Max) {
		text := fmt.Sprintf("it waits for %s: of %s at most %d may be down at once", d.names(near), s.value(d.class.index(d.place)), s.Max)
		return Decision{Reason: Reason{Code: CodeSpread, Text: text, Nodes: near, Command: d.skip(near)}}
	}
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
// lower rank, and those that may be down under an earlier order. By rank. near are those of
// them that may share a value of the spread's label with this node.
func (d *decision) mayBeDown() (nodes, near []bundle.NodeID) {
	own := d.class.index(d.place)
	add := func(id bundle.NodeID, i int) {
		nodes = append(nodes, id)
		if d.class.Spread != nil && d.rule.near(d.class.Spread, own, i) {
			near = append(near, id)
		}
	}
	nodes = make([]bundle.NodeID, 0, min(d.counts.open.n, d.class.MaxUnavailable+1))
	lower := 0 // ranks that come before its own
	for rank := range d.counts.open.all(0, len(d.counts.places)) {
		if !d.rule.before(rank, d.place.rank) {
			break
		}
		lower = rank + 1
		p := d.counts.places[rank]
		if p.node != d.Self && (p.attempt == 1 || !slices.Contains(nodes, p.node)) {
			add(p.node, d.class.index(p))
		}
	}
	for m := range d.counts.earlier.all(0, len(d.counts.members)) {
		if id := d.counts.members[m].id; id != d.Self && !d.counts.opens(m, lower) {
			add(id, d.counts.roster[m])
		}
	}
	return nodes, near
}

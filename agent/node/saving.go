package node

import (
	"fmt"
	"maps"
	"time"

	"moult/agent/upgrade"
	"moult/store/bundle"
)

// saving is where the node stands with what it must make durable: see the package
// doc.
type saving int

const (
	idle saving = iota
	offered
	refused
)

// waits reports that something waits to be saved, so that nothing is decided.
func (n *Node) waits() bool { return n.saving != idle || n.toSave() != nil }

// toSave returns what is not durable yet; nil for nothing, which is what it mostly is.
func (n *Node) toSave() *Save {
	u, floor := &n.unsaved, n.floor
	state, observed := n.machine.Todo().Save, n.observedToSave()
	if state != nil {
		floor.Promises = floor.Promises.Raised(*state)
	}
	if state == nil && observed == nil && floor == n.floorSaved && n.routing.answering == n.routing.saved && n.agents.memory == n.agents.saved &&
		u.Metadata.IsZero() && u.Evidence.IsZero() && len(u.Frozen) == 0 && len(u.Bound) == 0 {
		return nil
	}
	s := *u
	s.State, s.Observed = state, observed
	s.Frozen, s.Bound = maps.Clone(s.Frozen), maps.Clone(s.Bound)
	if floor != n.floorSaved {
		s.Floor = new(floor)
	}
	if n.routing.answering != n.routing.saved {
		s.Answering = new(n.routing.answering)
	}
	if n.agents.memory != n.agents.saved {
		s.Agents = new(n.agents.memory)
	}
	return &s
}

// bind notes that an order is in force.
func (s *Save) bind(v bundle.Version, d bundle.Digest) {
	if s.Bound == nil {
		s.Bound = map[bundle.Version]bundle.Digest{}
	}
	s.Bound[v] = d
}

// durable notes that a save is done, and takes up what waited for it.
func (n *Node) durable(s Save) {
	n.saving, n.unsaved, n.full = idle, Save{}, ""
	if s.Floor != nil {
		n.floor, n.floorSaved = *s.Floor, *s.Floor
	}
	if s.Answering != nil {
		n.routing.saved, n.routing.stale = *s.Answering, true
	}
	if s.Observed != nil {
		n.observedSaved = *s.Observed
	}
	if s.Agents != nil {
		n.agents.saved = *s.Agents
	}
	if s.State != nil {
		n.reached(*s.State)
		n.routing.stale = true
		n.saved, n.trouble = *s.State, ""
		n.warnOfCopy()
		n.software.admitted = n.software.admitted && s.State.Phase == upgrade.Probing
	}
	n.takeAnswers()
}

// offerAgain offers what was refused. Where a decision was all that there was, it was
// taken back.
func (n *Node) offerAgain() {
	if n.saving != refused {
		return
	}
	if n.saving = offered; n.toSave() == nil {
		n.saving, n.full = idle, ""
	}
}

// Refused says that the Save of the last Ready could not be made durable, for want
// of space, and that nothing else of that Ready was done. It is offered again after
// the next Tick.
func (n *Node) Refused(why string) {
	n.saving, n.full, n.rests = refused, why, false
	n.check.refused()
	n.agents.memory = n.agents.saved
	n.agents.anew()
	n.observed.For = min(n.observed.For, n.observedSaved.For) // it is not worth an alarm
	n.routing.answering.Oldest = n.routing.saved.Oldest       // somebody who needs more may come
	if n.saved.Phase == upgrade.Waiting && n.machine.State().Phase == upgrade.Draining {
		n.stay()
	}
}

// stay takes back a decision to go down that could not be made durable: nobody was
// told of it and nothing was done, and an order that forbids it may arrive before there
// is room again.
func (n *Node) stay() {
	m, err := upgrade.New(n.saved)
	if err != nil {
		panic(fmt.Sprintf("node: the machine does not take the state that was saved: %v", err))
	}
	n.machine = m
	n.bindContents()
}

// Refusing reports that the disk has refused what is to be saved.
func (n *Node) Refusing() bool { return n.saving == refused }

// actionEnded takes the answer to an action. It waits in line while a state waits
// to be saved: it is a fact, whatever is decided meanwhile.
func (n *Node) actionEnded(e upgrade.Event) {
	n.trouble, n.progress = "", 0
	if f, ok := e.(upgrade.Failed); ok && f.Later {
		n.notBefore = n.now.Add(retryLater)
	}
	n.answers = append(n.answers, e)
	n.takeAnswers()
}

// takeAnswers tells the machine what has ended, one after the other, as long as
// nothing waits to be saved.
func (n *Node) takeAnswers() {
	for len(n.answers) > 0 && !n.waits() {
		e := n.answers[0]
		n.answers = n.answers[1:]
		if staged, ok := e.(upgrade.Staged); ok && !n.machine.State().Served {
			n.staged = &staged
			continue
		}
		n.step(e)
	}
}

// step tells the machine what happened. Nothing must wait to be saved.
func (n *Node) step(e upgrade.Event) {
	before := n.machine.State()
	n.machine.Step(e)
	s := n.machine.State()
	if s.Running != before.Running {
		n.strike() // what it runs is withdrawn, perhaps, or was
	}
	if s.Goal != before.Goal && s.Goal != 0 {
		n.notBefore = time.Time{} // another release is not to blame
	}
	if s.Phase != before.Phase && n.retriesAlone(s) {
		n.notBefore = n.now.Add(retryInstall)
	}
	n.bindContents()
}

package node

import (
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Ready is what the driver must do next, in the order of the package doc.
type Ready struct {
	// Save must be durable, whole, before anything else of this Ready or a later
	// one is done; nil: nothing has changed.
	Save *Save
	// Gate says whether callers are let in, from this Save on; nil: as before.
	Gate *Gate
	// Route says whom the node answers, from now on; nil: as before.
	Route *Route
	// Directory says where peers answer, from now on; nil: as before.
	Directory Directory
	// Actions are the machine's.
	Actions []upgrade.Action
	// Tell is the record to be signed and passed on; nil: nothing new. It says
	// nothing that was not durable before this Ready. Told answers it.
	Tell *view.Record
	// Check asks whether the node could go down: whether the software is whole
	// here, and the disk has room. CheckEnded answers it.
	Check *Check
	// Read lists documents to look for on the disk, in this order: each is answered
	// by ManifestRead, OrderRead, DocumentHere, DocumentMissing or DocumentUnreadable.
	Read []Document
	// Fetch lists documents to ask peers for: each that comes is told by
	// DocumentFetched, and the end of all by FetchEnded.
	Fetch []Document
	// Agent is what is to be done about this agent itself; nil: nothing new. AgentKnown answers
	// it, if the agent has not been replaced by then.
	Agent *schedule.AgentStep
	// Raised are alarms that are new.
	Raised []string
	// Dropped are nodes of which the view has nothing any more.
	Dropped []bundle.NodeID
}

// Empty reports whether there is nothing to do.
func (r Ready) Empty() bool {
	return r.Save == nil && r.Gate == nil && r.Route == nil && r.Directory == nil && len(r.Actions) == 0 && r.Tell == nil && r.Check == nil && r.Agent == nil &&
		len(r.Read) == 0 && len(r.Fetch) == 0 && len(r.Raised) == 0 && len(r.Dropped) == 0
}

// Save is what must be durable at once: all of it or nothing.
type Save struct {
	// State is the machine's; nil: as before.
	State *upgrade.State
	// Metadata and Evidence are the digests of the sets to be kept; zero: as before.
	Metadata, Evidence bundle.Digest
	// Frozen has releases that were signed twice, with the manifest held of each; a
	// zero digest for one that is frozen no more.
	Frozen map[bundle.Version]bundle.Digest
	// Bound has the rollout orders that have come into force.
	Bound map[bundle.Version]bundle.Digest
	// Floor is what must survive even the loss of the database; nil: as before.
	Floor *Floor
	// Answering only ever goes one way; nil: as before.
	Answering *Answering
	// Observed is how long the time has run until a release is finalized by its own word; nil: as
	// before.
	Observed *schedule.Observed
	// Agents is what is kept of the agents that the node was to have; nil: as before.
	Agents *schedule.AgentMemory
}

// Gate says which software callers reach.
type Gate struct {
	Version bundle.Version
	Open    bool // false: they wait
}

// Check is what must be checked before the node goes down.
type Check struct {
	Step    uint64
	Running bundle.Version
	Path    []bundle.Version
}

// Ready returns what is to be done. It takes the decisions that are due; without a
// Step between, it returns the same again until Advance or Refused is called.
func (n *Node) Ready() Ready {
	if n.rests {
		return Ready{}
	}
	r := n.ready()
	n.rests = r.Empty()
	return r
}

func (n *Node) ready() Ready {
	n.decide()
	n.refreshView()
	r := Ready{Directory: n.currentDirectory()}
	r.Read, r.Raised, r.Dropped = n.docs.read, n.raised, n.dropped
	r.Tell = n.tell()
	if n.saving != refused {
		r.Save = n.toSave()
	}
	if r.Save != nil {
		n.saving = offered
	}
	if n.saving == idle {
		r.Fetch = n.fetch()
		if n.check.state == checkWanted {
			s := n.machine.State()
			r.Check = &Check{Step: s.Step, Running: s.Running, Path: s.Path}
		}
		r.Agent = n.agents.wish
	}
	// What was decided is done, whatever else waits to be written down: an agent that starts
	// on a full disk looks after its node.
	if todo := n.machine.Todo(); n.saving != refused || todo.Save == nil {
		r.Actions = todo.Actions
	}
	durable, answering := n.saved, n.routing.saved
	if r.Save != nil && r.Save.State != nil {
		durable = *r.Save.State
	}
	if r.Save != nil && r.Save.Answering != nil {
		answering = *r.Save.Answering
	}
	if g := n.GateFor(durable); g != n.gate {
		r.Gate = &g
	}
	if r.Save != nil || !n.routing.fresh {
		route := n.routeFor(durable, answering)
		// What is only being read anew is not given up meanwhile.
		wait := route.Native == n.routing.told.Native && n.docs.reading()
		if !wait && !route.equal(n.routing.told) {
			r.Route = &route
		}
		n.routing.fresh = r.Route == nil && r.Save == nil && !wait
	}
	if r.Save != nil {
		r.Tell = nil // it may say more once that is durable
	}
	return r
}

// Advance says that all of r has been done or begun, and its Save is durable.
func (n *Node) Advance(r Ready) {
	n.rests = false
	n.docs.read = n.docs.read[len(r.Read):]
	n.docs.asked += len(r.Read)
	n.raised = n.raised[len(r.Raised):]
	n.dropped = n.dropped[len(r.Dropped):]
	if r.Gate != nil {
		n.gate = *r.Gate
	}
	if r.Route != nil {
		n.routing.told = *r.Route
		n.listen(r.Route.Watched)
	}
	if r.Directory != nil {
		n.directory, n.listed = r.Directory, true
	}
	if r.Tell != nil {
		n.own, n.number = *r.Tell, r.Tell.Seq
	}
	if r.Check != nil {
		n.check.state = checkRuns
	}
	if r.Agent != nil {
		n.agents.wish, n.agents.told = nil, true
	}
	if len(r.Fetch) > 0 {
		n.docs.rounds.begin()
	}
	if r.Save != nil || len(r.Actions) > 0 {
		n.machine.Advance()
	}
	if r.Save != nil {
		n.durable(*r.Save)
	}
}

// GateFor says who is let in in a state that is durable, or is about to be. What was
// admitted stays so only while it is probed. A node that drains lets callers in until its
// software is stopped, so that a call which takes its time delays no other.
func (n *Node) GateFor(s upgrade.State) Gate {
	up := s.Running != 0 && n.software.ready && n.software.version == s.Running
	serves := !s.Phase.Down() || s.Phase == upgrade.Draining
	return Gate{Version: s.Running, Open: up && serves && (s.Phase != upgrade.Probing || n.software.admitted)}
}

package control

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Status is the cluster as one agent sees it: `moult status -o json`.
type Status struct {
	Cluster bundle.Digest  `json:"cluster"`
	Head    bundle.Version `json:"head"`
	Alarms  []string       `json:"alarms"`
	// Expires is when the first of the signed metadata in force does, Lasts apart from the
	// timestamp, which may be meant to be signed anew every few hours.
	Expires time.Time                    `json:"expires"`
	Lasts   time.Time                    `json:"lasts"`
	Release ReleaseStatus                `json:"release"`
	Classes map[bundle.Class]ClassStatus `json:"classes"`
	Nodes   []NodeStatus                 `json:"nodes"`
	// Local is what the agent that was asked knows of its own node alone.
	Local Local `json:"local"`
}

// Local tells how one node answers callers of other versions, and how calls come
// to it and leave it.
type Local struct {
	Name string `json:"name"`
	// Native is the version of the node's software; 0 while there is none.
	Native bundle.Version `json:"native"`
	// Services are the ways in, by service, and Egress the way out.
	Services map[string]LocalService `json:"services"`
	Egress   Way                     `json:"egress"`
	// Objects are the node's simulation objects, by the version that they answer.
	Objects []ObjectStatus `json:"objects"`
	// Class is the node's, and Vars are the names of the variables that its operator has set.
	Class bundle.Class `json:"class"`
	Vars  []string     `json:"vars,omitempty"`
}

// Way is what was chosen for calls, and why nothing better; "" where it is what
// was asked for, or the best.
type Way struct {
	Kind string `json:"kind"`
	Why  string `json:"why,omitempty"`
}

// LocalService is one service of the node.
type LocalService struct {
	Attach Way `json:"attach"`
	// Callers are the calls by the version of who made them, as far as they came
	// through the agent: what the kernel leads past it is not in it.
	Callers map[bundle.Version]CallCount `json:"callers"`
}

// CallCount counts calls since the agent began. For raw TCP a call is a
// connection.
type CallCount struct {
	Calls    int64 `json:"calls"`    // that have ended
	Denied   int64 `json:"denied"`   // by the author's word
	Errors   int64 `json:"errors"`   // that failed without it
	Canceled int64 `json:"canceled"` // that their callers gave up
	Open     int64 `json:"open"`     // that go on
	// Total is how long they took together, and Mean is how long a call took on average, waits for the node included.
	Total bundle.Duration `json:"total"`
	Mean  bundle.Duration `json:"mean"`
	// Last is when the last one ended; zero where none has.
	Last time.Time `json:"last,omitzero"`
}

// Sides of a release on which an object stands.
const (
	SidePast   = "past"
	SideFuture = "future"
)

// Where an object runs.
const (
	InAgent   = "agent"   // in the agent's own process
	InProcess = "process" // in another
)

// States of an object.
const (
	ObjectRunning    = "running"
	ObjectStarting   = "starting"
	ObjectRestarting = "restarting" // its process has ended; see Problem
	ObjectIdle       = "idle"       // nobody needs its process
	ObjectWaiting    = "waiting"    // what it is made of has not arrived
	ObjectBroken     = "broken"     // it refuses all calls; see Problem
)

// ObjectStatus is one simulation object of the node.
type ObjectStatus struct {
	// Callers is the version that it answers, Calls the one that it calls for
	// that, and Release the one that brought it.
	Callers bundle.Version `json:"callers"`
	Calls   bundle.Version `json:"calls"`
	Release bundle.Version `json:"release"`
	Side    string         `json:"side"`
	Kind    string         `json:"kind"`
	Where   string         `json:"where"`
	State   string         `json:"state"`
	// Problem says why it does not answer; "" where it does.
	Problem  string `json:"problem,omitempty"`
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts,omitempty"`
	// Counted are the calls that came to it, at all services.
	Counted CallCount `json:"counted"`
	// Oldest is how long the oldest call in its process goes on.
	Oldest bundle.Duration `json:"oldest,omitempty"`
	// Observation is there where the object sees the calls of version Calls.
	Observation *ObservationStatus `json:"observation,omitempty"`
}

// ObservationStatus tells how far an object has been told of calls.
type ObservationStatus struct {
	// Told counts the calls that it was told of, Missed those that it was not and
	// never will be, and Waiting those that it will be.
	Told    uint64 `json:"told"`
	Missed  uint64 `json:"missed"`
	Waiting int    `json:"waiting"`
	// Whole tells whether it is, or will be, told of every call now.
	Whole bool `json:"whole"`
	// Problem says why it cannot be told just now.
	Problem string `json:"problem,omitempty"`
}

// States of a release.
const (
	StateNone      = "none"
	StateSpreading = "spreading"
	StateRolling   = "rolling"
	StatePaused    = "paused"
	StateHeld      = "held"
	StateAborted   = "aborted"
	StateComplete  = "complete"
)

// ReleaseStatus tells how far the newest release is.
type ReleaseStatus struct {
	Version bundle.Version `json:"version"`
	Digest  bundle.Digest  `json:"digest"`
	State   string         `json:"state"`
	Reason  string         `json:"reason"`
	// Turn counts how often its rollout has changed its direction: an odd one takes the
	// release back.
	Turn int `json:"turn,omitempty"`
	// Finalized is true where the operator has said that it will not be taken back, and where this
	// agent, or any that it has heard of, has finalized it by the release's own word: FinalizeAfter
	// all have settled and are well, which here is at FinalizeAt; zero where that time does not run.
	Finalized     bool            `json:"finalized,omitempty"`
	FinalizeAfter bundle.Duration `json:"finalize_after,omitempty"`
	FinalizeAt    time.Time       `json:"finalize_at,omitzero"`
	// Agents is how far the agents are; nil where its order replaces none.
	Agents *AgentsStatus `json:"agents,omitempty"`
}

// Back reports whether the release is being taken back, or was.
func (r ReleaseStatus) Back() bool { return r.Turn%2 == 1 }

// ClassStatus counts the nodes of one class. Unwell are those at the newest release
// whose software is not well; one of which that is not known yet waits. Budget is how
// many may be down at once under the rollout order in force; 0 where there is none.
type ClassStatus struct {
	Total   int `json:"total"`
	Settled int `json:"settled"`
	Unwell  int `json:"unwell"`
	Down    int `json:"down"`
	Held    int `json:"held"`
	Waiting int `json:"waiting"`
	Budget  int `json:"budget"`
	// NoWayBack is why the newest release with an order cannot be taken back in this class; "" where it can.
	NoWayBack string `json:"no_way_back,omitempty"`
	// BackTo is the release to whose software that would lead, and BackToDoubt what an operator
	// has done that speaks against it, as a clause with the release's number before it.
	BackTo      bundle.Version `json:"back_to,omitempty"`
	BackToDoubt string         `json:"back_to_doubt,omitempty"`
}

// NodeStatus is one node's record with what this peer knows of its reachability.
type NodeStatus struct {
	Name      string         `json:"name"`
	ID        bundle.NodeID  `json:"id"`
	Class     bundle.Class   `json:"class"`
	Version   bundle.Version `json:"version"`        // that it is at
	Runs      bundle.Version `json:"runs,omitempty"` // where that is not the software of Version
	Phase     string         `json:"phase"`
	Health    string         `json:"health"` // a view.HealthState; "" where nothing is known
	Target    bundle.Version `json:"target"`
	Progress  float64        `json:"progress"`
	Reachable bool           `json:"reachable"`
	// Away is since when this peer does not hear of it; zero where it does, or never did.
	Away     time.Time `json:"away,omitzero"`
	Standing string    `json:"standing,omitempty"` // "left", "skipped", "outside" or "not enrolled", where it counts for nothing
	Reason   string    `json:"reason"`
	Since    time.Time `json:"since"`
	Number   uint64    `json:"number"` // of its record
	// Running is the release whose software and state are live there, 0 for none, and
	// Metadata the number of the signed metadata that it knows.
	Running  bundle.Version  `json:"running"`
	Metadata int64           `json:"metadata"`
	Address  string          `json:"address"`
	Platform bundle.Platform `json:"platform"`
	// Labels are what its agent.hcl says of it.
	Labels map[string]string `json:"labels,omitempty"`
	// Joined and Reads are as in view.Record.
	Joined bundle.Digest `json:"joined,omitzero"`
	Reads  int           `json:"reads,omitempty"`
	// Turned is how far it is with a release that is taken back, as in view.Record; Version
	// is then below what it has said once.
	Turned view.Turned `json:"turned,omitzero"`
	// Final is the newest release that it has finalized by the release's own word, as in view.Record.
	Final bundle.Version `json:"final,omitempty"`
	// Claims is what it has said once, where that is above Version.
	Claims bundle.Version `json:"claims,omitempty"`
	// Rehearsed is what came of its last rehearsal; zero for none.
	Rehearsed view.Rehearsal `json:"rehearsed,omitzero"`
	// Agent is which program its agent is, as in view.Record.
	Agent view.AgentBuild `json:"agent,omitzero"`
	// Facts are as in view.Record.
	Facts map[string]view.Fact `json:"facts,omitempty"`
	// Enrolment shows that a join token has enrolled the node.
	Enrolment view.Enrolment           `json:"enrolment,omitzero"`
	Services  map[string]ServiceStatus `json:"services,omitempty"`
}

// Find returns the node that people mean: the only one of that name, or else the only
// one whose ID begins so.
func Find[T any](all []T, node string, called func(T) (name string, id bundle.NodeID)) (found T, err error) {
	for _, fits := range []func(name string, id bundle.NodeID) bool{
		func(name string, _ bundle.NodeID) bool { return name == node },
		func(_ string, id bundle.NodeID) bool { return strings.HasPrefix(id.String(), strings.ToLower(node)) },
	} {
		count := 0
		for _, n := range all {
			if node != "" && fits(called(n)) {
				found = n
				count++
			}
		}
		switch {
		case count == 1:
			return found, nil
		case count > 1:
			return found, Misuse(fmt.Errorf("%q fits %d nodes", node, count), "give more digits of its ID, see `moult status`")
		}
	}
	return found, Misuse(fmt.Errorf("no node is called %q", node), "see `moult status`")
}

// ServiceStatus tells where a node's service is reached, and how.
type ServiceStatus struct {
	Public   string                    `json:"public"`
	Versions map[bundle.Version]string `json:"versions"`
	Attach   string                    `json:"attach"`
	Egress   string                    `json:"egress"`
}

// Member is one peer of the ring.
type Member struct {
	Name     string          `json:"name"`
	ID       bundle.NodeID   `json:"id"`
	Class    bundle.Class    `json:"class"`
	Address  string          `json:"address"`
	State    string          `json:"state"`
	Platform bundle.Platform `json:"platform"`
}

// Why tells what a node waits for.
type Why struct {
	Node    string         `json:"node"`
	ID      bundle.NodeID  `json:"id"`
	Phase   string         `json:"phase"`
	Version bundle.Version `json:"version"`
	Runs    bundle.Version `json:"runs,omitempty"` // where that is not the software of Version
	Target  bundle.Version `json:"target"`
	Code    string         `json:"code"`
	Reason  string         `json:"reason"`
	// Command is what an operator can run to change it; empty where nothing would.
	Command string `json:"command,omitempty"`
	// Agent is what the node's agent waits for, where it is to be replaced.
	Agent string `json:"agent,omitempty"`
}

// Trust is what an operator's tools need to sign the next document: the TUF
// metadata that the peer holds and the documents in force.
type Trust struct {
	Set    []byte                    `json:"set"`
	Head   bundle.Version            `json:"head"`
	Orders map[bundle.Version][]byte `json:"orders"`
	// Manifests has that of the newest release with an order, once it has arrived.
	Manifests map[bundle.Version][]byte `json:"manifests,omitempty"`
	// Members is who belongs to the cluster, as the operator has signed it; nil for none.
	// OpenRing tells that the agent lets everybody count, whoever that is.
	// Closed tells that there is one, whether or not it is here.
	Members  []byte `json:"members,omitempty"`
	OpenRing bool   `json:"open_ring,omitempty"`
	Closed   bool   `json:"closed,omitempty"`
}

// Signed is what an operator hands to a peer: a TUF metadata set, and rollout
// orders that it names by hash.
type Signed struct {
	Set    []byte                    `json:"set"`
	Orders map[bundle.Version][]byte `json:"orders,omitempty"`
	// Members is who belongs to the cluster, where that is signed as well.
	Members []byte `json:"members,omitempty"`
}

// Accepted answers an injection or an order.
type Accepted struct {
	Version bundle.Version `json:"version"`
	Digest  bundle.Digest  `json:"digest"`
	Message string         `json:"message"`
}

// History is what a node went through, as the journal of its agent has it; or, where Seen,
// as far as the agent that was asked saw it in the node's records.
type History struct {
	Node  string        `json:"node"`
	ID    bundle.NodeID `json:"id"`
	Class bundle.Class  `json:"class"`
	Seen  bool          `json:"seen,omitempty"`
	// Older tells that there was more, which is not kept or not told.
	Older  bool            `json:"older"`
	Phases []HistoryPhase  `json:"phases"` // the oldest first
	Signed []HistorySigned `json:"signed"` // likewise; none where Seen
}

// What is signed.
const (
	SignedRelease = "release"
	SignedOrder   = "order"
	SignedMembers = "members"
)

// Roles of who signs.
const (
	RolePublisher = "publisher"
	RoleOperator  = "operator"
)

// HistorySigned is one document that came into force at a node.
type HistorySigned struct {
	// At is when this node had verified it, by the machine's clock.
	At     time.Time     `json:"at"`
	Kind   string        `json:"kind"`
	Digest bundle.Digest `json:"digest"`
	// Release is that of the document, 0 for members.
	Release bundle.Version `json:"release,omitempty"`
	// Says tells one order of a release from another; "" where it was not here any more.
	Says string `json:"says,omitempty"`
	// Role is that of the keys that signed it.
	Role string   `json:"role"`
	Keys []string `json:"keys"`
}

// HistoryPhase is one phase of a node.
type HistoryPhase struct {
	// At is when it began, by the machine's clock; zero where an older agent did not note it.
	At    time.Time `json:"at,omitzero"`
	Phase string    `json:"phase"`
	// Version is the settled one, and Running that of the software and the state that are live.
	Version bundle.Version `json:"version"`
	Running bundle.Version `json:"running"`
	// Release is the one that the node was on its way to, or held at, or took Back.
	Release bundle.Version `json:"release,omitempty"`
	Back    bool           `json:"back,omitempty"`
	// Took is how long it lasted; 0 where that is not known, or it goes on.
	Took bundle.Duration `json:"took,omitempty"`
	// Reason is why the node was held, rolled back or retrying.
	Reason string `json:"reason,omitempty"`
	// Log is what the software wrote last, a line each, where it was the software that failed.
	Log []string `json:"log,omitempty"`
}

// Same reports whether nothing has happened between two states of a node but what a phase is
// made of.
func (p HistoryPhase) Same(q HistoryPhase) bool {
	return p.Phase == q.Phase && p.Release == q.Release && p.Back == q.Back && p.Version == q.Version && p.Running == q.Running
}

// StateCopy tells how long it is likely to take to copy the state that the node's software
// runs on.
type StateCopy struct {
	Version bundle.Version  `json:"version"` // of that software; 0: none
	Files   int             `json:"files"`
	Bytes   int64           `json:"bytes"`
	Takes   bundle.Duration `json:"takes"`
}

// Rehearsal is what came of running a bundle's release on a copy of a node's state.
type Rehearsal struct {
	Node    string         `json:"node"`
	ID      bundle.NodeID  `json:"id"`
	Class   bundle.Class   `json:"class"`
	Release bundle.Version `json:"release"`
	Digest  bundle.Digest  `json:"digest"`
	// From is the version that runs, and Path the releases that it goes through.
	From bundle.Version   `json:"from"`
	Path []bundle.Version `json:"path"`
	// Outcome is a view.Outcome; Reason says why, or what one that went well was without.
	Outcome view.Outcome     `json:"outcome"`
	Reason  string           `json:"reason,omitempty"`
	Took    bundle.Duration  `json:"took"`
	Stages  []RehearsalStage `json:"stages"` // that have ended
}

// Lacks says what the rehearsal was without, though nodes have it in earnest: it may be why
// it failed, which then says nothing against the release.
func (r *Rehearsal) Lacks(what string) {
	if r.Outcome == view.RehearsalFailed {
		r.Outcome = view.RehearsalUnable
	}
	if r.Reason != "" {
		what = r.Reason + "; " + what
	}
	r.Reason = what
}

// RehearsalStage is one part of a rehearsal that has ended.
type RehearsalStage struct {
	Name    string          `json:"name"`
	Version bundle.Version  `json:"version,omitempty"`
	Took    bundle.Duration `json:"took"`
	Files   int             `json:"files,omitempty"`
	Bytes   int64           `json:"bytes,omitempty"`
}

// RehearsalNews is one thing that is told of a rehearsal under way: what it begins, for
// people, a stage that has ended, or at last what came of it, or why nothing did.
type RehearsalNews struct {
	Begins string          `json:"begins,omitempty"`
	Ended  *RehearsalStage `json:"ended,omitempty"`
	Report *Rehearsal      `json:"report,omitempty"`
	Failed *Error          `json:"failed,omitempty"`
}

// Traffic counts what this agent fetched, by peer, in bytes.
type Traffic struct {
	Fetched map[bundle.NodeID]int64 `json:"fetched"`
}

// Info describes the agent itself.
type Info struct {
	Name    string        `json:"name"`
	ID      bundle.NodeID `json:"id"`
	Cluster string        `json:"cluster"`
	Class   bundle.Class  `json:"class"`
	PID     int           `json:"pid"`
	Bind    string        `json:"bind"`
	// NodePID is the process ID of the node's software; 0 while it is down.
	NodePID int `json:"node_pid"`
	// Objects is the number of objects of the last transform here, and
	// LongestHold the longest time that a call was held here.
	Objects     int             `json:"objects"`
	LongestHold bundle.Duration `json:"longest_hold"`
	Traffic     Traffic         `json:"traffic"`
	// Agent is which build of the agent this is.
	Agent AgentBuild `json:"agent"`
}

// Resolved says where the node's software calls to reach an address.
type Resolved struct {
	// Address is where to call, as host:port: that of the peer for callers of
	// Version, or what was asked about.
	Address string `json:"address"`
	// Peer tells whether the address asked about is that of a peer's service.
	Peer bool `json:"peer"`
	// Version is the version that the software's calls have.
	Version bundle.Version `json:"version"`
}

// BackupRequest asks for a backup in the folder To, a whole path.
type BackupRequest struct {
	To        string `json:"to"`
	Stateless bool   `json:"stateless"` // without the state of the software
}

// Backend is the agent, as the handler needs it. Every method may be called
// from several goroutines at once.
type Backend interface {
	Status(ctx context.Context, live bool) (Status, error)
	Members(ctx context.Context) ([]Member, error)
	Why(ctx context.Context, node string) (Why, error)
	Trust(ctx context.Context) (Trust, error)
	Info(ctx context.Context) (Info, error)
	History(ctx context.Context) (History, error)
	// HistoryOf tells of any node that the agent knows.
	HistoryOf(ctx context.Context, node string) (History, error)
	// StateCopy measures it now.
	StateCopy(ctx context.Context) (StateCopy, error)
	// Inject reads a whole bundle; signed may be nil.
	Inject(ctx context.Context, bundle io.Reader, signed *Signed) (Accepted, error)
	Accept(ctx context.Context, signed Signed) (Accepted, error)
	// Replace reads a whole program, which is to be the agent, checks it, and begins its trial,
	// by which this agent ends; deadline is how long it has to be well, 0 for the usual time.
	Replace(ctx context.Context, program io.Reader, deadline time.Duration) (Replacing, error)
	// Rehearse reads a whole bundle and runs its release on a copy of the node's state,
	// until ctx ends; told hears what goes on, and is not called after it has returned.
	Rehearse(ctx context.Context, bundle io.Reader, told func(RehearsalNews)) (Rehearsal, error)
	// Backup saves the node in a new folder of the agent's machine.
	Backup(ctx context.Context, b BackupRequest) error
	Join(ctx context.Context, addrs []string) (int, error)
	Leave(ctx context.Context) error
	// Resolve finds where the node's software is to call, so that a peer takes
	// it for the version that it is. A peer that does not answer that version is
	// an error.
	Resolve(ctx context.Context, address string) (Resolved, error)
}

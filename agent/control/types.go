package control

import (
	"context"
	"io"
	"time"

	"moult/store/bundle"
)

// Status is the cluster as one agent sees it: `moult status -o json`.
type Status struct {
	Cluster string                       `json:"cluster"`
	Head    bundle.Version               `json:"head"`
	Alarms  []string                     `json:"alarms"`
	Release ReleaseStatus                `json:"release"`
	Classes map[bundle.Class]ClassStatus `json:"classes"`
	Nodes   []NodeStatus                 `json:"nodes"`
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
}

// ClassStatus counts the nodes of one class. Budget is how many may be down at
// once under the rollout order in force; 0 where there is none.
type ClassStatus struct {
	Total   int `json:"total"`
	Settled int `json:"settled"`
	Down    int `json:"down"`
	Held    int `json:"held"`
	Waiting int `json:"waiting"`
	Budget  int `json:"budget"`
}

// NodeStatus is one node's record with what this peer knows of its reachability.
type NodeStatus struct {
	Name      string                   `json:"name"`
	ID        bundle.NodeID            `json:"id"`
	Class     bundle.Class             `json:"class"`
	Version   bundle.Version           `json:"version"`
	Phase     string                   `json:"phase"`
	Target    bundle.Version           `json:"target"`
	Progress  float64                  `json:"progress"`
	Reachable bool                     `json:"reachable"`
	Reason    string                   `json:"reason"`
	Since     time.Time                `json:"since"`
	Address   string                   `json:"address"`
	Platform  bundle.Platform          `json:"platform"`
	Services  map[string]ServiceStatus `json:"services,omitempty"`
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
	Target  bundle.Version `json:"target"`
	Code    string         `json:"code"`
	Reason  string         `json:"reason"`
	// Command is what an operator can run to change it; empty where nothing would.
	Command string `json:"command,omitempty"`
}

// Trust is what an operator's tools need to sign the next document: the TUF
// metadata that the peer holds and the documents in force.
type Trust struct {
	Set       []byte                    `json:"set"`
	Head      bundle.Version            `json:"head"`
	Orders    map[bundle.Version][]byte `json:"orders"`
	Manifests map[bundle.Version][]byte `json:"manifests"`
}

// Signed is what an operator hands to a peer: a TUF metadata set, and rollout
// orders that it names by hash.
type Signed struct {
	Set    []byte                    `json:"set"`
	Orders map[bundle.Version][]byte `json:"orders,omitempty"`
}

// Accepted answers an injection or an order.
type Accepted struct {
	Version bundle.Version `json:"version"`
	Digest  bundle.Digest  `json:"digest"`
	Message string         `json:"message"`
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

// Backend is the agent, as the handler needs it. Every method may be called
// from several goroutines at once.
type Backend interface {
	Status(ctx context.Context, live bool) (Status, error)
	Members(ctx context.Context) ([]Member, error)
	Why(ctx context.Context, node string) (Why, error)
	Trust(ctx context.Context) (Trust, error)
	Info(ctx context.Context) (Info, error)
	// Inject reads a whole bundle; signed may be nil.
	Inject(ctx context.Context, bundle io.Reader, signed *Signed) (Accepted, error)
	Accept(ctx context.Context, signed Signed) (Accepted, error)
	Join(ctx context.Context, addrs []string) (int, error)
	Leave(ctx context.Context) error
	// Resolve finds where the node's software is to call, so that a peer takes
	// it for the version that it is. A peer that does not answer that version is
	// an error.
	Resolve(ctx context.Context, address string) (Resolved, error)
}

// Package report tells people what one peer knows of the cluster: its nodes, how far the
// rollout is (Peer.Status), and what a node waits for, with the command that would change
// it (Peer.Why). It reads what agent/node has decided, and decides nothing; it is pure.
package report

import (
	"time"

	"moult/agent/node"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Peer is what one peer's agent knows.
type Peer struct {
	ID      bundle.NodeID // its own node's
	Cluster bundle.Digest
	Node    *node.Node
	Trust   *trust.Verified // in force
	Now     time.Time
}

const (
	// maxExplained is up to how many nodes a status tells of each what it waits
	// for; above, `why` does.
	maxExplained = 200
	// progressExpected is after how long without another settled node a rollout does not get on,
	// where its release does not say, beside the pauses that its order makes.
	progressExpected = bundle.Duration(2 * time.Hour)
	// maxNamed bounds the nodes that a reason names.
	maxNamed = 5
)

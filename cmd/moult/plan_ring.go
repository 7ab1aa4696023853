package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/agent/control"
	decisions "moult/agent/node"
	"moult/agent/operator"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/archive"
)

// planRingPart is what a plan knows from an agent.
type planRingPart struct {
	// Refused is why that agent would not take the release; empty where it would.
	Refused string `json:"refused,omitempty"`
	// Doubts are what of the release does not fit the nodes.
	Doubts []string `json:"doubts,omitempty"`
	// Signed tells that the rollout order is there already; else it is the one
	// that `moult inject` would make now.
	Signed  bool            `json:"signed"`
	Classes []planRingClass `json:"classes"`
}

// planRingClass is what would happen to the nodes of one class.
type planRingClass struct {
	Class bundle.Class `json:"class"`
	// Changed is false where the release leaves the class as it is.
	Changed  bool   `json:"changed"`
	Strategy string `json:"strategy"`
	// Budget is how many may be down at once.
	Budget int            `json:"budget"`
	Nodes  []planRingNode `json:"nodes"` // in the order in which they may go
}

type planRingNode struct {
	Rank      int            `json:"rank"` // from 1
	Name      string         `json:"name"`
	ID        bundle.NodeID  `json:"id"`
	Version   bundle.Version `json:"version"`
	Phase     string         `json:"phase"`
	Reachable bool           `json:"reachable"`
	Canary    bool           `json:"canary,omitempty"`
	Skipped   bool           `json:"skipped,omitempty"`
}

// planRing asks an agent who runs what, and works out who would go when.
func planRing(ctx context.Context, api *control.Client, b *archive.Bundle, root []byte) (*planRingPart, error) {
	status, err := api.Status(ctx, false)
	if err != nil {
		return nil, err
	}
	peer, err := api.Trust(ctx)
	if err != nil {
		return nil, err
	}
	part := &planRingPart{Doubts: operator.Doubts(b.Head(), status), Classes: []planRingClass{}}
	if err := operator.Fits(root, b, peer, status); err != nil {
		part.Refused = err.Error()
	}
	if doubt := longCopy(ctx, api, b); doubt != "" {
		part.Doubts = append(part.Doubts, doubt)
	}
	order, signed, err := operator.Preview(b, peer, status)
	if err != nil {
		return nil, err
	}
	part.Signed = signed
	nodes := map[bundle.NodeID]control.NodeStatus{}
	for _, n := range status.Nodes {
		nodes[n.ID] = n
	}
	for _, class := range slices.Sorted(maps.Keys(order.Classes)) {
		_, changed := b.Head().Classes[class]
		part.Classes = append(part.Classes, ringClass(class, changed, order.Classes[class], nodes))
	}
	return part, nil
}

// longCopy says that callers of the agent's node will be refused while its state is copied;
// "" where they will not, as far as can be told.
func longCopy(ctx context.Context, api *control.Client, b *archive.Bundle) string {
	info, err := api.Info(ctx)
	if err != nil {
		return ""
	}
	cu := b.Head().Classes[info.Class]
	if !cu.Copies() {
		return ""
	}
	s, err := api.StateCopy(ctx)
	if err != nil {
		return fmt.Sprintf("how long a copy of the state of %s takes could not be measured: %v", info.Name, err)
	}
	text := decisions.Copies{Version: s.Version, Files: s.Files, Bytes: s.Bytes, Takes: time.Duration(s.Takes)}.Warning(1, time.Duration(cu.Schedule.HoldTimeout))
	if text == "" {
		return ""
	}
	return info.Name + ": " + text
}

func ringClass(class bundle.Class, changed bool, c schedule.ClassOrder, nodes map[bundle.NodeID]control.NodeStatus) planRingClass {
	r := planRingClass{Class: class, Changed: changed, Strategy: c.Strategy, Budget: c.MaxUnavailable, Nodes: []planRingNode{}}
	for i, id := range c.Roster {
		n := nodes[id]
		if n.Name == "" {
			n.Name = id.Short() // known from an earlier order only
		}
		r.Nodes = append(r.Nodes, planRingNode{
			Rank: i + 1, Name: n.Name, ID: id, Version: n.Version, Phase: n.Phase, Reachable: n.Reachable,
			Canary: i < c.Canary, Skipped: slices.Contains(c.Skipped, i),
		})
	}
	return r
}

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"moult/agent"
	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
)

// planRingPart is what a plan knows from an agent.
type planRingPart struct {
	// Refused is why that agent would not take the release; empty where it would.
	Refused string `json:"refused,omitempty"`
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
	part := &planRingPart{Classes: []planRingClass{}}
	if err := wouldTake(root, b, peer, status); err != nil {
		part.Refused = err.Error()
	}
	order, signed, err := planOrder(b, peer, status)
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

// wouldTake reports why the peer would refuse the release.
func wouldTake(root []byte, b *archive.Bundle, peer control.Trust, status control.Status) error {
	set, err := trust.ParseSet(peer.Set)
	if err != nil {
		return fmt.Errorf("the agent's metadata: %w", err)
	}
	inForce, err := trust.Verify(root, nil, set)
	if err != nil {
		return fmt.Errorf("the agent is of another cluster: %w", err)
	}
	m := b.Head()
	if err := agent.CheckRelease(inForce, m, bundle.Sum(b.ManifestBytes(m.Version))); err != nil {
		return err
	}
	platforms := map[bundle.Class][]bundle.Platform{}
	for _, n := range status.Nodes {
		platforms[n.Class] = append(platforms[n.Class], n.Platform)
	}
	return agent.CheckPlatforms(m, platforms)
}

// planOrder returns the rollout order of the release: one that is signed, in
// force at the peer or in the bundle, else what would be signed now.
func planOrder(b *archive.Bundle, peer control.Trust, status control.Status) (order *schedule.Order, signed bool, err error) {
	m := b.Head()
	digest := bundle.Sum(b.ManifestBytes(m.Version))
	data, ok := peer.Orders[m.Version]
	if !ok {
		data, ok = b.Order(m.Version)
	}
	if ok {
		// One for other content under this number says nothing of this release.
		if order, err := schedule.ParseOrder(data); err != nil || order.Manifest == digest {
			return order, true, err
		}
	}
	var previous *schedule.Order
	for _, v := range slices.Backward(slices.Sorted(maps.Keys(peer.Orders))) {
		if v < m.Version {
			if previous, err = schedule.ParseOrder(peer.Orders[v]); err != nil {
				return nil, false, err
			}
			break
		}
	}
	var candidates []schedule.Candidate
	for _, n := range status.Nodes {
		candidates = append(candidates, schedule.Candidate{ID: n.ID, Class: n.Class, Reachable: n.Reachable})
	}
	order, err = schedule.Instantiate(m, digest, previous, candidates)
	return order, false, err
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

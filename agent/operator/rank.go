package operator

import (
	"fmt"
	"maps"
	"slices"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/archive"
)

// First returns the order that begins the rollout of the bundle's release: the
// one that this folder has signed before, if it has (two injections of one
// bundle must not rank the nodes differently), else a new one. It is not signed.
func (o Operator) First(b *archive.Bundle, peer control.Trust, status control.Status) (*schedule.Order, error) {
	n := b.Head().Version
	if _, data, ok := o.folder.LastOrder(n); ok {
		return schedule.ParseOrder(data)
	}
	previous, err := o.orderBefore(peer, n)
	if err != nil {
		return nil, err
	}
	return rank(b, previous, status)
}

// orderBefore returns the newest order of a release before n, nil where none
// was ever signed. What was signed decides, not what has arrived at the peer:
// nodes may be down under that order, so the next must name it and have them.
func (o Operator) orderBefore(peer control.Trust, n bundle.Version) (*schedule.Order, error) {
	inForce := o.folder.Current()
	var release bundle.Version
	for _, v := range inForce.Orders() {
		if v < n {
			release = v
		}
	}
	if release == 0 {
		return nil, nil
	}
	ref, _ := inForce.Order(release)
	data, ok := peer.Orders[release]
	if !ok || bundle.Sum(data) != ref.Digest {
		data, ok = o.folder.OrderInForce(release)
	}
	if !ok {
		return nil, control.Refused(fmt.Errorf("the rollout order of release %d (%s) has not arrived at this agent and was not signed in this trust folder; the order of release %d must follow it",
			release, ref.Digest.Short(), n), "try again in a moment, or at another agent")
	}
	return schedule.ParseOrder(data)
}

// Preview returns the rollout order of the bundle's release without a trust
// folder: one that is signed, in force at the peer or in the bundle, else what
// would be signed now.
func Preview(b *archive.Bundle, peer control.Trust, status control.Status) (order *schedule.Order, signed bool, err error) {
	m := b.Head()
	data, ok := peer.Orders[m.Version]
	if !ok {
		data, ok = b.Order(m.Version)
	}
	if ok {
		// One for other content under this number says nothing of this release.
		if order, err := schedule.ParseOrder(data); err != nil || order.Manifest == headDigest(b) {
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
	order, err = rank(b, previous, status)
	return order, false, err
}

// rank makes the first order of the bundle's release for the nodes of a status.
func rank(b *archive.Bundle, previous *schedule.Order, status control.Status) (*schedule.Order, error) {
	var nodes []schedule.Candidate
	for _, n := range status.Nodes {
		nodes = append(nodes, schedule.Candidate{ID: n.ID, Class: n.Class, Reachable: n.Reachable})
	}
	return schedule.Instantiate(b.Head(), headDigest(b), previous, nodes)
}

// headDigest is the digest of the manifest of the bundle's release.
func headDigest(b *archive.Bundle) bundle.Digest {
	return bundle.Sum(b.ManifestBytes(b.Head().Version))
}

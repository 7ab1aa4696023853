package operator

import (
	"maps"
	"slices"

	"moult/agent/control"
	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/archive"
)

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
	var members *membership.Membership
	if peer.Members != nil && !peer.OpenRing {
		if members, err = membership.Parse(peer.Members); err != nil {
			return nil, false, err
		}
	}
	order, err = rank(b, previous, status, members)
	return order, false, err
}

// rank makes the first order of the bundle's release for the nodes of a status that belong
// to the cluster; nil: all.
func rank(b *archive.Bundle, previous *schedule.Order, status control.Status, members *membership.Membership) (*schedule.Order, error) {
	return schedule.Instantiate(b.Head(), headDigest(b), previous, candidates(status, func(n control.NodeStatus) bool { return members.Counts(RecordOf(n)) }))
}

// candidates are the nodes of a status that count.
func candidates(status control.Status, counts func(control.NodeStatus) bool) (nodes []schedule.Candidate) {
	for _, n := range status.Nodes {
		if counts(n) {
			nodes = append(nodes, schedule.Candidate{
				ID: n.ID, Class: n.Class, Version: n.Version, Reachable: n.Reachable,
				Left: n.Standing == string(schedule.StandingLeft), Labels: n.Labels,
			})
		}
	}
	return nodes
}

// headDigest is the digest of the manifest of the bundle's release.
func headDigest(b *archive.Bundle) bundle.Digest {
	return bundle.Sum(b.ManifestBytes(b.Head().Version))
}

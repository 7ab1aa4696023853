package operator

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Enrolling is what the operator would enrol of a node that an agent knows: what it says
// of itself now.
func Enrolling(n control.NodeStatus) membership.Member {
	m := membership.Member{Node: n.ID, Name: n.Name, Class: n.Class}
	for _, name := range slices.Sorted(maps.Keys(n.Services)) {
		// A record may have anything in it, so what is no host is left out.
		if host, _, err := net.SplitHostPort(n.Services[name].Public); err == nil && membership.IsHost(host) && len(m.Hosts) < membership.MaxHosts {
			m.Hosts = append(m.Hosts, host)
		}
	}
	return m
}

// older names a node that counts and whose agent would refuse all metadata that name who
// belongs to the cluster; "" for none.
func older(status control.Status) string {
	for _, n := range status.Nodes {
		if n.Standing == "" && n.Phase != "" && n.Reads < view.ReadsMembers {
			return n.Name
		}
	}
	return ""
}

// RecordOf is the part of a node's record that says whether it belongs, and where it is.
func RecordOf(n control.NodeStatus) view.Record {
	return view.Record{Node: n.ID, Class: n.Class, Enrolment: n.Enrolment, Version: n.Version, Running: n.Running, Turned: n.Turned, Final: n.Final, Phase: view.Phase(n.Phase)}
}

// Begun returns m, or where the operator has signed none yet, one that enrols all nodes of
// a status, with whom: else they would count no more from the first word on.
func Begun(m *membership.Membership, status control.Status) (begun *membership.Membership, enrolled []string) {
	if m != nil {
		return m, nil
	}
	var all []membership.Member
	for _, n := range status.Nodes {
		all = append(all, Enrolling(n))
		enrolled = append(enrolled, n.Name)
	}
	return m.Enrol(all...), enrolled
}

// members returns who belongs to the cluster, as the metadata in force name it, from the
// folder or from the peer; nil where the operator has never signed it.
func (o Operator) members(peer control.Trust) (*membership.Membership, error) {
	ref, signed := o.folder.Current().Members()
	if !signed {
		return nil, nil
	}
	data, ok := o.folder.SignedMembers()
	if !ok && peer.Members != nil && bundle.Sum(peer.Members) == ref.Digest {
		data, ok = peer.Members, true
		if err := o.folder.KeepMembers(data); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, control.Refused(fmt.Errorf("who belongs to the cluster (%s) has not arrived at this agent and was not signed in this trust folder", ref.Digest.Short()),
			"try again in a moment, or at another agent; where it is lost, `moult member add --all --anew` begins anew")
	}
	return membership.Parse(data)
}

// beginMembers signs who belongs to the cluster, where that was never done and the ring is
// not open: those that the agent knows. It returns what the operator should know of it.
func (o Operator) beginMembers(peer control.Trust, status control.Status) (m *membership.Membership, notes []string, err error) {
	if peer.OpenRing {
		return nil, nil, nil
	}
	if m, err = o.members(peer); err != nil {
		return nil, nil, err
	}
	if old := older(status); m == nil && old != "" {
		return nil, []string{fmt.Sprintf("nobody is enrolled yet: the agent of %s is of an older moult, which would refuse what says so; upgrade all agents, then `moult member add --all`", old)}, nil
	}
	begun, enrolled := Begun(m, status)
	if len(enrolled) > 0 {
		if _, err := o.SignMembers(begun); err != nil {
			return nil, nil, err
		}
		notes = append(notes, fmt.Sprintf("enrolled %s: from now on a new node counts only by `moult member add` or a join token", strings.Join(enrolled, ", ")))
	}
	for _, n := range status.Nodes {
		if n.Reachable && !begun.Counts(RecordOf(n)) {
			notes = append(notes, fmt.Sprintf("%s is not enrolled, so the order does not have it: `moult member add %s`, then `moult retry %s`", n.Name, n.Name, n.Name))
		}
	}
	return begun, notes, nil
}

// signedMembers is who belongs to the cluster, where this folder has it: it goes with
// whatever is handed over, for a peer may not have it.
func (o Operator) signedMembers() []byte {
	data, _ := o.folder.SignedMembers()
	return data
}

// SignMembers signs who belongs to the cluster, and returns what a peer needs.
func (o Operator) SignMembers(m *membership.Membership) (*control.Signed, error) {
	data, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	v, err := o.folder.AddMembers(data)
	if err != nil {
		return nil, err
	}
	set, err := v.Set().Marshal()
	if err != nil {
		return nil, err
	}
	return &control.Signed{Set: set, Members: data}, nil
}

// MembersChange says who belongs to the cluster from now on. It is given nil where the
// operator has never signed that, and may return what it was given.
type MembersChange func(*membership.Membership, control.Status) (*membership.Membership, error)

// ChangeMembers fetches what is in force from the agent, changes who belongs to the
// cluster, signs that and hands it over. Where anew is true change is given nil, whatever
// was signed; where it returns what it was given, nothing is signed.
func (o Operator) ChangeMembers(ctx context.Context, api *control.Client, anew bool, change MembersChange) (control.Accepted, error) {
	peer, err := api.Trust(ctx)
	if err != nil {
		return control.Accepted{}, err
	}
	if err := o.Absorb(peer.Set); err != nil {
		return control.Accepted{}, err
	}
	var m *membership.Membership
	if !anew {
		if m, err = o.members(peer); err != nil {
			return control.Accepted{}, err
		}
	}
	status, err := api.Status(ctx, false)
	if err != nil {
		return control.Accepted{}, err
	}
	signed, err := o.signChange(m, status, change)
	if err != nil || signed == nil {
		return control.Accepted{}, err
	}
	signed.Orders = o.Late(peer)
	besides, err := o.Besides(peer.Set, 0)
	if err != nil {
		return control.Accepted{}, err
	}
	accepted, err := api.Accept(ctx, *signed)
	accepted.Message = strings.Join(append([]string{accepted.Message}, signedNow(besides)...), "; ")
	return accepted, err
}

// Eviction is the change that evicts a node, and skips the places that it has in the newest
// order, for what has one is waited for. It may be made again, and is made without the order
// where that cannot be changed: whoever is evicted may be an enemy.
func Eviction(id bundle.NodeID, evict MembersChange, alone func(why error)) Change {
	return Change{Name: "member remove", Members: evict, Alone: alone, Apply: func(o *schedule.Order) (_ *schedule.Order, err error) {
		next := o
		for _, class := range slices.Sorted(maps.Keys(o.Classes)) {
			if o.Attempts(class, id) == 0 {
				continue
			}
			if next, err = next.Skip(class, id); err != nil {
				return nil, err
			}
		}
		return next, nil
	}}
}

// signMembersWith signs a change of who belongs to the cluster that goes with an order.
func (o Operator) signMembersWith(peer control.Trust, status control.Status, change MembersChange) error {
	m, err := o.members(peer)
	if err == nil {
		_, err = o.signChange(m, status, change)
	}
	return err
}

// signChange changes m and signs what comes of it; nil where nothing changes.
func (o Operator) signChange(m *membership.Membership, status control.Status, change MembersChange) (*control.Signed, error) {
	next, err := change(m, status)
	if err != nil || next == m {
		return nil, err
	}
	if old := older(status); m == nil && old != "" {
		return nil, control.Refused(fmt.Errorf("enrol: the agent of %s is of an older moult, which would refuse all metadata that say who belongs to the cluster", old), "upgrade all agents first")
	}
	return o.SignMembers(next)
}

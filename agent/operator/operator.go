package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
)

// Operator signs rollout orders with the keys of a trust folder, which stays
// its caller's to close.
type Operator struct {
	folder *trust.Folder
}

// New returns the operator whose keys are in folder.
func New(folder *trust.Folder) Operator { return Operator{folder} }

// Begin makes and signs the order that begins the rollout of a bundle's
// release, on top of what the agent and the bundle hold. The agent is only asked:
// handing the bundle and the order over is the caller's. Where the release, or a newer
// one, has an order already, there is nothing to sign and the result is nil: the bundle
// alone may still bring what the agent lacks of it. notes are what the operator should
// know: the release's Doubts, Besides, and who is enrolled with it or is not. With agents, the
// order also has agents replaced by the one that the release brings.
func (o Operator) Begin(ctx context.Context, api *control.Client, b *archive.Bundle, agents bool) (signed *control.Signed, notes []string, err error) {
	if err := checkAgents(b.Head(), agents); err != nil {
		return nil, nil, err
	}
	peer, err := api.Trust(ctx)
	if err != nil {
		return nil, nil, err
	}
	status, err := api.Status(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	unfit := Fits(o.folder.FirstRoot(), b, peer, status)
	if errors.Is(unfit, ErrOrdered) {
		return nil, nil, nil
	}
	// Where it takes a class from another version, the folder still has to know of it: the
	// way out is to withdraw it.
	if _, from := errors.AsType[fromError](unfit); unfit != nil && !from {
		return nil, nil, unfit
	}
	if err := o.Absorb(peer.Set); err != nil {
		return nil, nil, err
	}
	if _, err := o.folder.Absorb(b.Trust().Set()); err != nil {
		return nil, nil, Refusal(err)
	}
	if unfit != nil {
		return nil, nil, unfit
	}
	members, notes, err := o.beginMembers(peer, status)
	if err != nil {
		return nil, nil, err
	}
	order, err := o.First(b, peer, status, members)
	if err != nil {
		return nil, nil, err
	}
	if agents && (order.Agents == nil || order.Agents.Release != order.Release) {
		with := order.WithAgents
		if o.signed(order) {
			with = order.AllowAgents
		}
		if order, err = with(b.Head()); err != nil {
			return nil, nil, control.Refused(err, "")
		}
	}
	if signed, err = o.Sign(order); err != nil {
		return nil, nil, err
	}
	besides, err := o.Besides(peer.Set, order.Release)
	if b.Head().Agent != nil && !agents {
		notes = append(notes, fmt.Sprintf("release %d brings an agent, and none is replaced by it before `moult inject --agents BUNDLE` says so", order.Release))
	}
	if len(notes) > 0 { // which say who is enrolled with it
		besides = signedNow(besides)
	}
	return signed, slices.Concat(Doubts(b.Head(), status), besides, notes), err
}

// Besides tells what a peer with this set hears of when it is handed what the folder
// has, beside release n and its order.
func (o Operator) Besides(peer []byte, n bundle.Version) (texts []string, err error) {
	set, err := trust.ParseSet(peer)
	if err != nil {
		return nil, fmt.Errorf("read the agent's metadata: %w", err)
	}
	before, err := trust.Verify(o.folder.FirstRoot(), nil, set)
	if err != nil {
		return nil, otherCluster(err)
	}
	return besides(before, o.folder.Current(), n), nil
}

// First returns the order that begins the rollout of the bundle's release: the
// one that this folder has signed before, if it has (two injections of one
// bundle must not rank the nodes differently), else a new one. It is not signed.
func (o Operator) First(b *archive.Bundle, peer control.Trust, status control.Status, members *membership.Membership) (*schedule.Order, error) {
	n := b.Head().Version
	if _, data, ok := o.folder.LastOrder(n); ok {
		return schedule.ParseOrder(data)
	}
	previous, err := o.orderBefore(peer, n)
	if err != nil {
		return nil, err
	}
	return rank(b, previous, status, members)
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
	order, err := schedule.ParseOrder(data)
	if err != nil {
		return nil, err
	}
	return order, o.addWithdrawn(peer, order)
}

// addWithdrawn adds to an order, of which the next is to be made, what those of earlier
// releases withdraw: another operator may have done so meanwhile. That of a later one does
// not count, for the order of a release between might lack it.
func (o Operator) addWithdrawn(peer control.Trust, order *schedule.Order) error {
	orders, signed := map[bundle.Version][]byte{}, map[bundle.Version][]byte{}
	for v, data := range peer.Orders {
		if v < order.Release {
			orders[v] = data
		}
	}
	for _, v := range o.folder.Current().Orders() {
		if data, ok := o.folder.OrderInForce(v); ok && v < order.Release {
			signed[v] = data
		}
	}
	for _, known := range []map[bundle.Version][]byte{orders, signed} {
		all, err := Withdrawn(known)
		if err != nil {
			return fmt.Errorf("read what is withdrawn: %w", err)
		}
		for _, w := range all {
			order.Withdrawn = order.Withdrawn.With(w)
		}
	}
	return nil
}

// Change is what an operator does to a rollout order.
type Change struct {
	Name string // as the command is called
	// Apply makes the successor and leaves the order as it is.
	Apply func(*schedule.Order) (*schedule.Order, error)
	// Newest refuses the change where a newer release has an order: no node goes
	// down under an older one.
	Newest bool
	// Joins says that where two orders contradict each other the change is to join them.
	Joins bool
	// Members changes who belongs to the cluster with it, if it is not nil.
	Members MembersChange
	// Alone, if not nil, has Members changed also where the order is not, and is told why it
	// is not: nil where it needs no change.
	Alone func(why error)
	// Confirm, if not nil, is asked before the change is signed. An error refuses it.
	Confirm func(before *schedule.Order, status control.Status) error
}

// Change fetches what is in force from the agent, changes the order of a release
// (0: the newest with an order), signs the change and hands it over. It returns
// the release whose order it was.
func (o Operator) Change(ctx context.Context, api *control.Client, release bundle.Version, c Change) (bundle.Version, control.Accepted, error) {
	peer, err := api.Trust(ctx)
	if err != nil {
		return 0, control.Accepted{}, err
	}
	if err := o.Absorb(peer.Set); err != nil {
		return 0, control.Accepted{}, err
	}
	old, next, err := o.successor(ctx, api, peer, release, c)
	if c.Alone != nil && (err != nil || next == old) {
		c.Alone(err)
		accepted, err := o.ChangeMembers(ctx, api, false, c.Members)
		return 0, accepted, err
	}
	if err != nil {
		return 0, control.Accepted{}, err
	}
	if c.Confirm != nil || c.Members != nil {
		status, err := api.Status(ctx, false)
		if err == nil && c.Confirm != nil {
			err = c.Confirm(old, status)
		}
		if err == nil && c.Members != nil {
			err = o.signMembersWith(peer, status, c.Members)
		}
		if err != nil {
			return 0, control.Accepted{}, err
		}
	}
	signed, err := o.Sign(next)
	if err != nil {
		return 0, control.Accepted{}, err
	}
	besides, err := o.Besides(peer.Set, old.Release)
	if err != nil {
		return 0, control.Accepted{}, err
	}
	if c.Members != nil {
		besides = signedNow(besides)
	}
	accepted, err := api.Accept(ctx, *signed)
	accepted.Message = strings.Join(append([]string{accepted.Message}, besides...), "; ")
	return old.Release, accepted, err
}

// successor returns the order that a change is made to, and what it makes of it; of neither
// where there is none and the change needs none.
func (o Operator) successor(ctx context.Context, api *control.Client, peer control.Trust, release bundle.Version, c Change) (old, next *schedule.Order, err error) {
	if c.Alone != nil && len(peer.Orders) == 0 && len(o.folder.Current().Orders()) == 0 {
		return nil, nil, nil
	}
	if old, err = o.changing(peer, release, c); err != nil {
		return nil, nil, err
	}
	if err := o.addWithdrawn(peer, old); err != nil {
		return nil, nil, err
	}
	next = old
	if old.Joined == nil || !old.Joined.Open || !c.Joins || o.signed(old) {
		next, err = c.Apply(old)
	}
	if err == nil && next.State == schedule.StateRunning {
		err = o.resumable(ctx, api, peer, old)
	}
	if err != nil {
		return nil, nil, control.Refused(fmt.Errorf("change the rollout order of release %d: %w", old.Release, err), "")
	}
	return old, next, nil
}

// changing returns the order that a change is to be made to: the newest of the
// release that the peer has or that this folder has signed, for an earlier
// command may have signed one that no peer has taken yet.
func (o Operator) changing(peer control.Trust, release bundle.Version, c Change) (*schedule.Order, error) {
	var newest bundle.Version
	for v := range peer.Orders {
		newest = max(newest, v)
	}
	// What is signed counts, also where this peer does not have it yet: others may.
	for _, v := range o.folder.Current().Orders() {
		newest = max(newest, v)
	}
	if release == 0 {
		release = newest
	}
	if c.Newest && newest > release {
		return nil, control.Refused(fmt.Errorf("%s under the order of release %d: that of release %d is newer, and no node goes down under an older one", c.Name, release, newest), "`moult status` shows how that fares; without --release, or a number, the newest is meant")
	}
	if release == 0 {
		return nil, control.Refused(fmt.Errorf("this agent knows of no rollout to %s", c.Name), "hand a release in with `moult inject`")
	}
	data, ok := peer.Orders[release]
	if !ok {
		_, data, ok = o.folder.LastOrder(release)
	}
	if !ok {
		return nil, control.Refused(fmt.Errorf("release %d has no rollout order at this agent", release), "hand one in with `moult inject`")
	}
	order, err := schedule.ParseOrder(data)
	if err == nil {
		if own, digests, err := o.contradicting(order, data); err != nil || own != nil {
			if err == nil {
				order, err = o.join(order, own, digests, c)
			}
			return order, err
		}
	}
	for err == nil {
		if data, ok = o.folder.SignedOrder(release, order.Serial+1); !ok {
			break
		}
		order, err = schedule.ParseOrder(data)
	}
	return order, err
}

// Sign signs an order and returns what a peer needs.
func (o Operator) Sign(order *schedule.Order) (*control.Signed, error) {
	data, err := schedule.MarshalOrder(order)
	if err != nil {
		return nil, err
	}
	v, err := o.folder.AddOrder(order.Release, order.Serial, data)
	if err != nil {
		return nil, err
	}
	set, err := v.Set().Marshal()
	if err != nil {
		return nil, err
	}
	return &control.Signed{Set: set, Orders: map[bundle.Version][]byte{order.Release: data}, Members: o.signedMembers()}, nil
}

// Absorb takes a peer's metadata over into the folder where it is newer.
func (o Operator) Absorb(set []byte) error { return absorb(set, o.folder.Absorb) }

// AbsorbJump is Absorb where the operator has confirmed that version numbers by keys
// that were replaced shall be followed.
func (o Operator) AbsorbJump(set []byte) error { return absorb(set, o.folder.AbsorbJump) }

func absorb(set []byte, into func(...trust.Set) (*trust.Verified, error)) error {
	s, err := trust.ParseSet(set)
	if err != nil {
		return fmt.Errorf("read the agent's metadata: %w", err)
	}
	if _, err := into(s); err != nil {
		return otherCluster(err)
	}
	return nil
}

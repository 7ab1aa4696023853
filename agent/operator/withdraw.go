package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Withdrawal is what an operator withdraws: what a release, and all that are signed after
// it, do to a class.
type Withdrawal struct {
	Class   bundle.Class
	Release bundle.Version
	// Confirm is asked before anything is signed; an error refuses it. aborts are the
	// releases whose rollouts have to be aborted for it.
	Confirm func(last bundle.Version, aborts []bundle.Version) error
	// Waits is told for which nodes it waits, whenever that changes.
	Waits func(text string)
}

// Withdraw aborts the rollouts of the releases that are to be withdrawn, waits until every
// node that counts has said that it has not been let in to any of them and knows that they
// are aborted, and then signs the withdrawal. It returns the version from which the next
// release is to take the class. Where ctx ends before all have said so, the aborts stay;
// the same again goes on from there.
func (o Operator) Withdraw(ctx context.Context, api *control.Client, w Withdrawal) (from bundle.Version, accepted control.Accepted, err error) {
	peer, err := api.Trust(ctx)
	if err != nil {
		return 0, accepted, err
	}
	if err := o.Absorb(peer.Set); err != nil {
		return 0, accepted, err
	}
	orders, last, err := o.toWithdraw(peer, w)
	if err != nil {
		return 0, accepted, err
	}
	newest := orders[0]
	if _, err := o.obstacles(ctx, api, newest, w, 0); err != nil {
		return 0, accepted, err
	}
	var aborts []bundle.Version
	for _, order := range orders {
		if order.State != schedule.StateAborted && order.Release >= w.Release {
			aborts = append(aborts, order.Release)
		}
	}
	if w.Confirm != nil {
		if err := w.Confirm(last, aborts); err != nil {
			return 0, accepted, err
		}
	}
	for _, v := range aborts {
		if _, _, err := o.Change(ctx, api, v, Change{Name: "abort", Apply: (*schedule.Order).Abort}); err != nil {
			return 0, accepted, err
		}
	}
	number, err := o.handOver(ctx, api, orders, w)
	if err != nil {
		return 0, accepted, err
	}
	if err := o.allKnow(ctx, api, newest, w, number); err != nil {
		return 0, accepted, err
	}
	_, accepted, err = o.Change(ctx, api, 0, Change{Name: "withdraw", Apply: func(order *schedule.Order) (*schedule.Order, error) {
		next, err := order.Withdraw(w.Class, w.Release, last)
		if err == nil {
			from = next.Withdrawn.From(w.Class, last+1, unknown)
		}
		return next, err
	}})
	return from, accepted, err
}

// unknown says of every release that it is not known what it changes.
func unknown(bundle.Version) (changes, known bool) { return false, false }

// toWithdraw returns the orders that are concerned, the newest first, and the last release
// that is signed.
func (o Operator) toWithdraw(peer control.Trust, w Withdrawal) (orders []*schedule.Order, last bundle.Version, err error) {
	c := Change{Name: "withdraw a release"}
	newest, err := o.changing(peer, 0, c)
	if err != nil {
		return nil, 0, err
	}
	if _, ok := newest.Classes[w.Class]; !ok {
		return nil, 0, control.Refused(fmt.Errorf("withdraw: the rollout of release %d has no class %q", newest.Release, w.Class), "`moult status` shows the classes")
	}
	last = max(newest.Release, o.folder.Current().Head())
	switch got, already := newest.Withdrawn.Of(w.Class, w.Release); {
	case w.Release > last:
		return nil, 0, control.Refused(fmt.Errorf("withdraw: release %d is not signed, the newest is %d", w.Release, last), "")
	case already && got.Last >= last:
		from := newest.Withdrawn.From(w.Class, last+1, unknown)
		return nil, 0, control.Refused(fmt.Errorf("withdraw: releases %d to %d are withdrawn for class %s already", got.First, got.Last, w.Class),
			fmt.Sprintf("build release %d with from = %d", last+1, from))
	}
	orders = append(orders, newest)
	for _, v := range slices.Backward(o.folder.Current().Orders()) {
		if v < w.Release || v == newest.Release {
			continue
		}
		order, err := o.changing(peer, v, c)
		if err != nil {
			return nil, 0, err
		}
		orders = append(orders, order)
	}
	return orders, last, nil
}

// handOver gives the peer the aborts of these orders, also where an earlier try has signed
// them and no peer took them. It returns the number of metadata by which all are aborted:
// a node that has these, or newer ones, knows so.
func (o Operator) handOver(ctx context.Context, api *control.Client, orders []*schedule.Order, w Withdrawal) (number int64, err error) {
	peer, err := api.Trust(ctx)
	if err != nil {
		return 0, err
	}
	if err := o.Absorb(peer.Set); err != nil {
		return 0, err
	}
	current := o.folder.Current()
	signed := control.Signed{Orders: map[bundle.Version][]byte{}, Members: o.signedMembers()}
	if signed.Set, err = current.Set().Marshal(); err != nil {
		return 0, err
	}
	for _, order := range orders {
		v := order.Release
		if v < w.Release {
			continue
		}
		data := peer.Orders[v]
		if ref, _ := current.Order(v); bundle.Sum(data) != ref.Digest {
			data, _ = o.folder.OrderInForce(v)
			signed.Orders[v] = data
		}
		if got, err := schedule.ParseOrder(data); err != nil || got.State != schedule.StateAborted {
			return 0, control.Refused(fmt.Errorf("withdraw: another operator has changed the rollout of release %d meanwhile, and it is not known to be aborted", v), "try again")
		}
	}
	if len(signed.Orders) > 0 || !bytes.Equal(signed.Set, peer.Set) {
		_, err = api.Accept(ctx, signed)
	}
	return current.Versions().Timestamp, err
}

// allKnow waits until each node that counts has said that it knows of the aborts, which
// metadata of this number have.
func (o Operator) allKnow(ctx context.Context, api *control.Client, newest *schedule.Order, w Withdrawal, number int64) error {
	tick := time.NewTicker(PollInterval)
	defer tick.Stop()
	before := ""
	for {
		waits, err := o.obstacles(ctx, api, newest, w, number)
		if ctx.Err() != nil {
			return control.Refused(fmt.Errorf("withdraw: the rollout is aborted, and not every node is known to be back: %s", before),
				fmt.Sprintf("the same again goes on; `moult skip --release %d NODE` is your word that a node is gone", newest.Release))
		}
		if err != nil || waits == "" {
			return err
		}
		if waits != before && w.Waits != nil {
			w.Waits(waits)
		}
		before = waits
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// obstacles says for which nodes the withdrawal waits; "" for none. A node that was let in
// to a release that is to be withdrawn refuses it.
func (o Operator) obstacles(ctx context.Context, api *control.Client, newest *schedule.Order, w Withdrawal, number int64) (waits string, err error) {
	peer, err := api.Trust(ctx)
	if err != nil {
		return "", err
	}
	order, err := o.changing(peer, newest.Release, Change{Name: "withdraw a release"}) // nodes may have been skipped meanwhile
	if err != nil {
		return "", err
	}
	status, err := api.Status(ctx, false)
	if err != nil {
		return "", err
	}
	var nodes []view.Record
	names, reachable := map[bundle.NodeID]string{}, map[bundle.NodeID]bool{}
	for _, n := range status.Nodes {
		if n.Standing == string(schedule.StandingStranger) {
			continue // whatever it says decides nothing
		}
		names[n.ID], reachable[n.ID] = n.Name, n.Reachable
		nodes = append(nodes, view.Record{Node: n.ID, Class: n.Class, Version: max(n.Version, n.Claims), Running: n.Running, Phase: view.Phase(n.Phase), Trust: view.Heads{Timestamp: n.Metadata}})
	}
	var texts []string
	for _, x := range schedule.Obstacles(order, w.Class, w.Release, number, nodes, func(id bundle.NodeID) bool { return reachable[id] }) {
		name := names[x.Node]
		if name == "" {
			name = x.Node.Short()
		}
		if x.There {
			return "", control.Refused(fmt.Errorf("withdraw release %d for class %s: node %s is there: %s", w.Release, w.Class, name, x.Text),
				fmt.Sprintf("go on from release %d, or give the node up: %s", w.Release, without(order, x, name)))
		}
		text := fmt.Sprintf("%s: %s", name, x.Text)
		if x.Outside {
			text += "; it has joined since: " + without(order, x, name)
		}
		if !reachable[x.Node] {
			text += ", and it cannot be reached"
		}
		texts = append(texts, text)
	}
	if more := len(texts) - maxNamed; more > 0 {
		texts = append(texts[:maxNamed], fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, "; "), nil
}

// without tells how a node is given up that is in the way of a withdrawal.
func without(order *schedule.Order, x schedule.Obstacle, name string) string {
	if x.Outside {
		return fmt.Sprintf("end its agent (`moult leave` there), then `moult forget %s`", name)
	}
	return fmt.Sprintf("`moult skip --release %d %s`, where it is gone", order.Release, name)
}

// maxNamed bounds the nodes that a text names.
const maxNamed = 5

// CheckFrom reports why no node could take a release: it takes a class from a version
// that none can be at. from tells for a class which it must be.
func CheckFrom(m *bundle.Manifest, from func(bundle.Class) bundle.Version) error {
	for _, class := range slices.Sorted(maps.Keys(m.Classes)) {
		said, want := m.Classes[class].From, from(class)
		switch {
		case said == 0 || said == want:
		case want+1 == m.Version:
			return control.Refused(fmt.Errorf("release %d takes class %s from version %d, and what lies between is not withdrawn", m.Version, class, said),
				fmt.Sprintf("`moult withdraw --class %s %d` first, or build the next release with from = %d", class, said+1, m.Version))
		default:
			return control.Refused(fmt.Errorf("release %d takes class %s from version %d, and what release %d does to it is withdrawn", m.Version, class, said, want+1),
				fmt.Sprintf("`moult withdraw --class %s %d` passes over this one, too; then build release %d with from = %d", class, m.Version, m.Version+1, want))
		}
	}
	return nil
}

// Withdrawn is what orders say is withdrawn.
func Withdrawn(orders map[bundle.Version][]byte) (all bundle.Withdrawn, err error) {
	for _, data := range orders {
		o, perr := schedule.ParseOrder(data)
		if perr != nil {
			err = errors.Join(err, perr)
			continue
		}
		for _, w := range o.Withdrawn {
			all = all.With(w)
		}
	}
	return all, err
}

package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// contradicting returns the order that this folder has signed for the release of one that a
// peer has, where neither follows the other, and the digests of all that this folder has
// signed beside that; nil where there is none.
func (o Operator) contradicting(peer *schedule.Order, data []byte) (own *schedule.Order, digests []bundle.Digest, err error) {
	_, last, ok := o.folder.LastOrder(peer.Release)
	if !ok || bundle.Sum(last) == bundle.Sum(data) {
		return nil, nil, nil
	}
	if own, err = schedule.ParseOrder(last); err != nil {
		return nil, nil, err
	}
	digests = []bundle.Digest{bundle.Sum(data), bundle.Sum(last)}
	if follows(peer, own, digests[0]) || follows(own, peer, digests[1]) {
		return nil, nil, nil
	}
	// A peer may have any of those that led to this folder's.
	for serial := own.Serial - 1; serial > 0 && len(digests) < schedule.MaxJoined; serial-- {
		before, ok := o.folder.SignedOrder(own.Release, serial)
		if !ok {
			break
		}
		if old, err := schedule.ParseOrder(before); err != nil || schedule.Successor(old, peer) == nil {
			break // there they part
		}
		digests = append(digests, bundle.Sum(before))
	}
	return own, digests, nil
}

// follows reports whether an order may take the place of another, by that one's digest.
func follows(old, next *schedule.Order, digest bundle.Digest) bool {
	return schedule.Successor(old, next) == nil || next.Joins(digest) && schedule.JoinSuccessor(old, next) == nil
}

// Late returns the orders in force of this folder that a peer has not got, and would take:
// an earlier try may not have got them there.
func (o Operator) Late(peer control.Trust) map[bundle.Version][]byte {
	late := map[bundle.Version][]byte{}
	for n, at := range peer.Orders {
		data, ok := o.folder.OrderInForce(n)
		if !ok || bundle.Sum(data) == bundle.Sum(at) {
			continue
		}
		old, err := schedule.ParseOrder(at)
		if err != nil {
			continue
		}
		if next, err := schedule.ParseOrder(data); err == nil && follows(old, next, bundle.Sum(at)) {
			late[n] = data
		}
	}
	return late
}

// join returns the order that a change is to be made to where two contradict each other: only
// to pause is one, and puts them together.
func (o Operator) join(peer, own *schedule.Order, digests []bundle.Digest, c Change) (*schedule.Order, error) {
	if !c.Joins {
		return nil, control.Refused(fmt.Errorf("%s: two rollout orders of release %d contradict each other: one with serial %d at this agent (%s), and one with serial %d that this trust folder has signed (%s)",
			c.Name, peer.Release, peer.Serial, digests[0].Short(), own.Serial, digests[1].Short()),
			fmt.Sprintf("`moult pause --release %d` joins them; then `moult resume --release %d`, when every node has it", peer.Release, peer.Release))
	}
	joined, err := schedule.Join(peer, own, digests...)
	if err != nil {
		return nil, control.Refused(err, "")
	}
	return joined, nil
}

// mayResume reports why what was joined must not be resumed yet: nodes may be down by either
// half, and neither counts those of the other.
// asked is the node of the agent whose status it is.
func mayResume(o *schedule.Order, digest bundle.Digest, number int64, status control.Status, asked bundle.NodeID) error {
	if o.Joined == nil || !o.Joined.Open {
		return nil
	}
	known, names := map[bundle.NodeID]view.Record{}, map[bundle.NodeID]string{}
	for _, n := range status.Nodes {
		known[n.ID] = view.Record{Node: n.ID, Phase: view.Phase(n.Phase), Trust: view.Heads{Timestamp: n.Metadata}, Joined: n.Joined, Reads: n.Reads}
		names[n.ID] = n.Name
	}
	left := schedule.Unjoined(o, digest, number, func(id bundle.NodeID) (view.Record, bool) {
		r, ok := known[id]
		return r, ok
	})
	if len(left) == 0 {
		return nil
	}
	// An agent of an older moult passes on less than the nodes say.
	if own, ok := known[asked]; ok && own.Reads < view.ReadsJoined && slices.ContainsFunc(left, func(id bundle.NodeID) bool { return known[id].Reads >= view.ReadsJoined }) {
		return control.Refused(fmt.Errorf("resume: release %d had two orders that were joined, and this agent is of an older moult: it does not tell which nodes have the joined one", o.Release),
			"ask an agent of this moult: --agent says which")
	}
	var who []string
	for _, id := range left {
		name := names[id]
		if name == "" {
			name = id.Short()
		}
		who = append(who, name)
	}
	if more := len(who) - maxNamed; more > 0 {
		who = append(who[:maxNamed], fmt.Sprintf("%d more", more))
	}
	return control.Refused(fmt.Errorf("resume: release %d had two orders that were joined, and these nodes have not said that they are up and have the joined one: %s", o.Release, strings.Join(who, ", ")),
		fmt.Sprintf("try again in a moment; `moult skip --release %d NODE` is your word that a node is gone", o.Release))
}

// handOverAgain gives an agent what the folder has in force, with one order, which an earlier
// try did not get there.
func (o Operator) handOverAgain(ctx context.Context, api *control.Client, release bundle.Version, order []byte) error {
	set, err := o.folder.Current().Set().Marshal()
	if err == nil {
		_, err = api.Accept(ctx, control.Signed{Set: set, Orders: map[bundle.Version][]byte{release: order}, Members: o.signedMembers()})
	}
	return err
}

// signed reports whether this folder has signed an order, as opposed to one that has just
// been put together.
func (o Operator) signed(order *schedule.Order) bool {
	_, ok := o.folder.SignedOrder(order.Release, order.Serial)
	return ok
}

// resumable asks the agent whether what was joined may be resumed.
func (o Operator) resumable(ctx context.Context, api *control.Client, peer control.Trust, order *schedule.Order) error {
	if order.Joined == nil || !order.Joined.Open {
		return nil
	}
	set, err := trust.ParseSet(peer.Set)
	if err != nil {
		return fmt.Errorf("read the agent's metadata: %w", err)
	}
	inForce, err := trust.Verify(o.folder.FirstRoot(), nil, set)
	if err != nil {
		return otherCluster(err)
	}
	// What nodes say of metadata says something of this order only where the metadata of the
	// agent name it, and it is in force there.
	ref, _ := inForce.Order(order.Release)
	data, signed := o.folder.SignedOrder(order.Release, order.Serial)
	if own, _ := o.folder.Current().Order(order.Release); signed && own.Digest == bundle.Sum(data) && ref.Digest != own.Digest {
		if err := o.handOverAgain(ctx, api, order.Release, data); err != nil {
			return err
		}
		return control.Refused(fmt.Errorf("resume: this agent had not got the order that joined the two of release %d: it was handed over just now", order.Release), "try again when every node has it")
	}
	if at := peer.Orders[order.Release]; ref.Digest != bundle.Sum(at) || signed && bundle.Sum(data) != ref.Digest {
		return control.Refused(fmt.Errorf("resume: this agent has not got the order that joined the two of release %d", order.Release), "try again in a moment, or at another agent")
	}
	status, err := api.Status(ctx, false)
	if err != nil {
		return err
	}
	asked, err := api.Info(ctx)
	if err != nil {
		return err
	}
	return mayResume(order, ref.Digest, inForce.Versions().Timestamp, status, asked.ID)
}

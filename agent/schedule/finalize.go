package schedule

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// FinalizeInput is what it rests on whether a node finalizes a release by the release's own word.
type FinalizeInput struct {
	Order *Order
	// Tally is of Order and of what is known of the nodes.
	Tally *Tally
	// Since is since when this node has known, without a break, that all was as it must be; zero
	// where it was not. Now is the time by the same clock.
	Since, Now time.Time
	// Synced, Expired and Conflict are as in Input. Pending is true while a newer order is signed
	// that has not arrived.
	Synced, Expired, Conflict, Pending bool
}

// Finalizing is when a release is finalized by its own word.
type Finalizing struct {
	// Since is from when the time counts, At when it is over; zero: it does not count, for the
	// Reason given.
	Since, At time.Time
	// Now is true when the node may finalize the release.
	Now    bool
	Reason string
}

// MayFinalize says when a node finalizes the release of an order by itself (FinalizeAfter): when
// all nodes that the order does not skip have said that they are at it, none that it is not well,
// or has failed, and that has been so for long enough by this node's own clock since it saw it.
func MayFinalize(in FinalizeInput) Finalizing {
	o := in.Order
	if reason := o.unfinal(in.Tally); reason != "" {
		return Finalizing{Reason: reason}
	}
	f := Finalizing{Since: in.Since}
	if in.Since.IsZero() || in.Now.Before(in.Since) { // a clock that was set back shortens nothing
		f.Since = in.Now
	}
	f.At = f.Since.Add(time.Duration(o.FinalizeAfter))
	f.Now = !in.Now.Before(f.At) && in.Synced && !in.Expired && !in.Conflict && !in.Pending
	return f
}

// unfinal is why the time until a release is finalized does not count; "" where it does.
func (o *Order) unfinal(t *Tally) string {
	switch {
	case o.FinalizeAfter == 0:
		return "its release does not ask for it"
	case o.Finalized:
		return "the operator has finalized it"
	case o.Back():
		return "it is being taken back"
	case o.State != StateRunning:
		return "its rollout is " + o.State
	}
	behind, unwell := 0, 0
	for _, class := range slices.Sorted(maps.Keys(o.Classes)) {
		n := t.of(class)
		behind += n.elsewhere.n
		unwell += n.unwell.n + n.failed.n
	}
	switch {
	case behind > 0:
		return fmt.Sprintf("%d nodes have not said that they are at it", behind)
	case unwell > 0:
		return fmt.Sprintf("%d nodes are not well, or have failed", unwell)
	}
	return ""
}

// notFinal keeps nodes at a release that others have finalized by its own word, though an order
// takes it back: they can never follow.
func (d *decision) notFinal() (Decision, bool) {
	if !d.order.Back() {
		return Decision{}, false
	}
	final := d.Tally.Final()
	if len(final) == 0 {
		return Decision{}, false
	}
	return Decision{Reason: Reason{
		Code: CodeFinal, Text: fmt.Sprintf("release %d was finalized by its own finalize_after before it was taken back: %s", d.order.Release, d.names(final)),
		Nodes: final, Command: undo(d.order.Release),
	}}, true
}

// undo is the command that goes forward to a release again.
func undo(release bundle.Version) string { return fmt.Sprintf("moult revert --undo %d", release) }

// Final lists the nodes in the order that have begun to finalize the release by its own word.
func (t *Tally) Final() (nodes []bundle.NodeID) {
	for _, class := range slices.Sorted(maps.Keys(t.order.Classes)) {
		n := t.of(class)
		for m := range n.final.all(0, len(n.members)) {
			nodes = append(nodes, n.members[m].id)
		}
	}
	return nodes
}

// final is Tally.Final for one class, of whoever asks once; none where the release is not taken back.
func (c *ClassOrder) final(o *Order, lookup func(bundle.NodeID) (view.Record, bool)) (nodes []bundle.NodeID) {
	if !o.Back() {
		return nil
	}
	for _, m := range c.members() {
		if rec, ok := lookup(m.id); ok && m.attempts > 0 && rec.Final >= o.Release {
			nodes = append(nodes, m.id)
		}
	}
	return nodes
}

package schedule

import (
	"fmt"
	"strings"

	"moult/store/bundle"
)

// name returns what people call a node.
func (d *decision) name(id bundle.NodeID) string {
	if d.Name != nil {
		return d.Name(id)
	}
	if rec, ok := d.Lookup(id); ok && rec.Name != "" {
		return rec.Name
	}
	return id.Short()
}

// names lists some nodes, each with what it does.
func (d *decision) names(ids []bundle.NodeID) string {
	var words []string
	for _, id := range ids[:min(len(ids), maxNamed)] {
		words = append(words, d.name(id)+" ("+d.doing(id)+")")
	}
	if more := len(ids) - maxNamed; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}

// doing says what a node was doing when last heard of.
func (d *decision) doing(id bundle.NodeID) string {
	rec, ok := d.Lookup(id)
	switch {
	case !ok:
		return "nothing is known of it"
	case rec.Left:
		return "it has left, last seen " + string(rec.Phase)
	case d.Reachable != nil && !d.Reachable(id):
		return "unreachable, last seen " + string(rec.Phase)
	case rec.Health.Unwell():
		return fmt.Sprintf("%s, %s: %s", rec.Phase, rec.Health.State, rec.Health.Reason)
	case d.order.Arrived(rec) && rec.Health.Failed.Release == d.order.Release:
		return string(rec.Phase) + ", its software failed in its soak"
	case !theRule().beyond(d.order, rec, ok):
		return string(rec.Phase) + ", may go by an earlier order"
	}
	return string(rec.Phase)
}

// skip returns the command that would let the others go on without a node that
// is gone: the first unreachable one, or the first of all where that is not
// known. It must not tempt anyone to skip a node that is at work.
func (d *decision) skip(ids []bundle.NodeID) string {
	for _, id := range ids {
		if d.Reachable == nil || !d.Reachable(id) {
			return fmt.Sprintf("moult skip --release %d %s", d.order.Release, d.name(id))
		}
	}
	return ""
}

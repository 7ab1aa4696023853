package operator

import (
	"fmt"
	"slices"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// SettledOf counts the nodes that an order names, and those of them that are where it leads.
func SettledOf(o *schedule.Order, s control.Status) (settled, total int) {
	known := map[bundle.NodeID]view.Record{}
	for _, n := range s.Nodes {
		known[n.ID] = RecordOf(n)
	}
	r := schedule.Summary(o, func(id bundle.NodeID) (view.Record, bool) {
		rec, ok := known[id]
		return rec, ok
	})
	for _, p := range r.Classes {
		settled, total = settled+p.Settled, total+p.Total
	}
	return settled, total
}

// JoinWords says what it means to join an order, where that is for good: one of the two is
// aborted; "" where it is not.
func JoinWords(o *schedule.Order, s control.Status) string {
	if o.Joined == nil || !o.Joined.Open || o.State != schedule.StateAborted {
		return ""
	}
	settled, total := SettledOf(o, s)
	what := fmt.Sprintf("join two rollout orders of release %d, of which one is aborted, by one with serial %d that aborts it for good: ", o.Release, o.Serial)
	if o.Back() {
		return what + fmt.Sprintf("%d of %d nodes have taken it back, and no other does", settled, total)
	}
	return what + fmt.Sprintf("%d of %d nodes have it and keep it, and no other gets it", settled, total)
}

// AbortWords says what it means to abort an order, and refuses where all is done.
func AbortWords(o *schedule.Order, s control.Status) (string, error) {
	settled, total := SettledOf(o, s)
	away := func(n control.NodeStatus) bool { return !o.Arrived(RecordOf(n)) }
	if total > 0 && settled == total && !slices.ContainsFunc(s.Nodes, away) {
		if o.Back() {
			return "", control.Refused(fmt.Errorf("abort: every node has taken release %d back already: there is nothing to abort", o.Release),
				fmt.Sprintf("`moult revert --undo %d` goes forward again; a newer release takes its place", o.Release))
		}
		return "", control.Refused(fmt.Errorf("abort: every node has release %d already: there is nothing to abort", o.Release),
			"a newer release takes its place; see `moult status`")
	}
	if o.Back() {
		return fmt.Sprintf("abort the way back from release %d: %d of %d nodes have taken it back, and no other does", o.Release, settled, total), nil
	}
	return fmt.Sprintf("abort the rollout of release %d for good: %d of %d nodes have it and keep it, and no other gets it", o.Release, settled, total), nil
}

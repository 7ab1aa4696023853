package operator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Reversal is a release that an operator takes back, or with Undo forward to again.
type Reversal struct {
	Release bundle.Version // 0: the newest with an order
	Undo    bool
	// To names releases to which nodes may go back though an operator has taken them back
	// themselves, or has aborted their rollouts. Of others it says nothing.
	To []bundle.Version
	// Confirm is asked before anything is signed; an error refuses it. nodes says how many
	// are concerned.
	Confirm func(order *schedule.Order, nodes Concerned) error
}

// Concerned counts the nodes that an order which turns has a place for: those that Go to
// where it leads, and those that Stay, since they are there. Skipped ones have none.
type Concerned struct{ Go, Stay, Skipped int }

// Revert signs the order that takes a release back, or forward to it again, and hands it
// over. It returns which release that was.
func (o Operator) Revert(ctx context.Context, api *control.Client, r Reversal) (bundle.Version, control.Accepted, error) {
	c := Change{Name: "take a release back", Newest: true}
	order, status, err := o.newest(ctx, api, "revert", r.Release, c)
	if err != nil {
		return 0, control.Accepted{}, err
	}
	if err := mayTurn(order, status, r); err != nil {
		return 0, control.Accepted{}, err
	}
	others := candidates(status, func(n control.NodeStatus) bool {
		return counts(n) && (n.Reads >= view.ReadsTurns || order.Attempts(n.Class, n.ID) > 0) // of others the turn would wait for ever
	})
	c.Apply = func(order *schedule.Order) (*schedule.Order, error) { return order.Revert(others) }
	if r.Undo {
		c.Name, c.Apply = "go forward again", func(order *schedule.Order) (*schedule.Order, error) { return order.Again(others) }
	}
	if r.Confirm != nil {
		if err := r.Confirm(order, concerned(order, status, r.Undo)); err != nil {
			return 0, control.Accepted{}, err
		}
	}
	return o.Change(ctx, api, order.Release, c)
}

// newest returns the newest order, for a command that asks for that of a release (0: whatever
// it is), and the status of an agent that has it in force.
func (o Operator) newest(ctx context.Context, api *control.Client, command string, release bundle.Version, c Change) (*schedule.Order, control.Status, error) {
	var status control.Status
	peer, err := api.Trust(ctx)
	if err != nil {
		return nil, status, err
	}
	if err := o.Absorb(peer.Set); err != nil {
		return nil, status, err
	}
	order, err := o.changing(peer, 0, c)
	if err != nil {
		return nil, status, err
	}
	if release != 0 && release < order.Release {
		return nil, status, control.Refused(fmt.Errorf("%s: release %d has an order, and builds on release %d: only the newest can be taken back", command, order.Release, release),
			fmt.Sprintf("%s takes the place of both; `moult status` shows how release %d fares", theNext, order.Release))
	}
	if release > order.Release {
		return nil, status, control.Refused(fmt.Errorf("%s: release %d has no rollout order at this agent", command, release), "`moult status` shows the newest that has one")
	}
	if status, err = api.Status(ctx, false); err != nil {
		return nil, status, err
	}
	if _, has := peer.Orders[order.Release]; !has {
		return nil, status, control.Refused(fmt.Errorf("%s: the order of release %d has not arrived at this agent", command, order.Release), "try again in a moment, or at another agent")
	}
	return order, status, nil
}

// Finalize signs that a release (0: the newest with an order) will not be taken back, and hands
// it over. confirm is asked before anything is signed; an error refuses it. It returns which
// release that was.
func (o Operator) Finalize(ctx context.Context, api *control.Client, release bundle.Version, confirm func(*schedule.Order, control.Status) error) (bundle.Version, control.Accepted, error) {
	c := Change{Name: "finalize", Newest: true}
	order, status, err := o.newest(ctx, api, "finalize", release, c)
	c.Apply = func(newest *schedule.Order) (*schedule.Order, error) {
		if newest.Serial != order.Serial {
			return nil, fmt.Errorf("%w: another order of release %d was signed meanwhile: look at `moult status`, and do it again", schedule.ErrRefused, order.Release)
		}
		return newest.Finalize()
	}
	if err == nil {
		err = mayFinalize(order, status)
	}
	if err == nil {
		err = confirm(order, status)
	}
	if err != nil {
		return 0, control.Accepted{}, err
	}
	return o.Change(ctx, api, order.Release, c)
}

// mayFinalize reports why a release must not be finalized now: only what its nodes have said
// counts.
func mayFinalize(order *schedule.Order, status control.Status) error {
	n := order.Release
	if order.Finalized {
		return control.Refused(fmt.Errorf("finalize: release %d is finalized already", n), "nothing needs to be done; see `moult status`")
	}
	if order.Back() {
		return control.Refused(fmt.Errorf("finalize: release %d is being taken back, or was", n), fmt.Sprintf("`moult revert --undo %d` goes forward to it again", n))
	}
	if _, err := order.Finalize(); err != nil { // before somebody is asked
		return control.Refused(fmt.Errorf("finalize: %w", err), "")
	}
	known, names := map[bundle.NodeID]view.Record{}, map[bundle.NodeID]string{}
	for _, s := range status.Nodes {
		known[s.ID], names[s.ID] = RecordOf(s), s.Name
	}
	var left []string
	for _, id := range order.Unsettled(func(id bundle.NodeID) (view.Record, bool) { r, ok := known[id]; return r, ok }) {
		left = append(left, cmp.Or(names[id], id.Short()))
	}
	if len(left) > 0 {
		return control.Refused(fmt.Errorf("finalize: these nodes have not said that they have settled at release %d: %s", n, named(left)),
			fmt.Sprintf("`moult why %s` tells what it waits for; `moult skip --release %d %s` is your word that it is gone", left[0], n, left[0]))
	}
	if deaf := deafTo(order, status); len(deaf) > 0 {
		return refuseDeaf("finalize", n, deaf)
	}
	return nil
}

// deafTo lists the nodes that an order names and that have not said that their agent reads
// orders that turn.
func deafTo(order *schedule.Order, status control.Status) (deaf []string) {
	for _, s := range status.Nodes {
		if counts(s) && s.Reads < view.ReadsTurns && order.Attempts(s.Class, s.ID) > 0 {
			deaf = append(deaf, s.Name)
		}
	}
	return deaf
}

func refuseDeaf(command string, n bundle.Version, deaf []string) error {
	return control.Refused(fmt.Errorf("%s: these nodes have not said that their agent reads such an order: %s", command, named(deaf)),
		fmt.Sprintf("upgrade moult there and start the agent again; `moult skip --release %d %s` is your word that a node is gone", n, deaf[0]))
}

// counts reports whether a node of a status belongs to the cluster: what others say decides nothing.
func counts(n control.NodeStatus) bool { return n.Standing != string(schedule.StandingStranger) }

// mayTurn reports why an order must not turn now.
func mayTurn(order *schedule.Order, status control.Status, r Reversal) error {
	n, undo := order.Release, r.Undo
	refuse := func(hint, format string, args ...any) error {
		return control.Refused(fmt.Errorf("revert: "+format, args...), hint)
	}
	instead := "the next release takes its place: `moult inject BUNDLE`"
	switch {
	case order.Finalized:
		return refuse(instead, "release %d is finalized: it is not taken back any more", n)
	case !undo && finalAlone(order, status) != "":
		return refuse(instead, "release %d is finalized, by its own finalize_after, on %s: it is not taken back any more", n, finalAlone(order, status))
	case undo && !order.Back() && order.State == schedule.StateAborted:
		return refuse(instead, "release %d is not being taken back, so there is nothing to undo, and its rollout was aborted for good", n)
	case undo && !order.Back():
		return refuse(fmt.Sprintf("`moult status` shows how far its rollout is; `moult revert %d` takes it back", n), "release %d is not being taken back, so there is nothing to undo", n)
	case !undo && order.Back() && order.State == schedule.StateAborted:
		return refuse(fmt.Sprintf("`moult revert --undo %d` goes forward again with all nodes, and then it can be taken back anew; or %s takes its place", n, theNext), "the way back from release %d was aborted", n)
	case !undo && order.Back():
		return refuse(fmt.Sprintf("`moult status` shows how far that is; `moult revert --undo %d` goes forward again", n), "release %d is being taken back already, or was", n)
	case order.Joined != nil && order.Joined.Open:
		return refuse(fmt.Sprintf("`moult resume --release %d` first", n), "the rollout of release %d has two halves, which were joined, and nodes may go by either", n)
	}
	var there, left []string
	stuck := map[bundle.Class]bool{} // where a node is that could not go back
	for _, s := range status.Nodes {
		skipped := order.Names(s.Class, s.ID) && order.Attempts(s.Class, s.ID) == 0
		if skipped && isThere(s, n) && s.Reachable {
			left = append(left, s.Name)
		}
		if !counts(s) || skipped || !order.Names(s.Class, s.ID) && !s.Reachable {
			continue
		}
		stuck[s.Class] = stuck[s.Class] || isThere(s, n) || !s.Reachable && s.Target >= n
		if isThere(s, n) {
			there = append(there, s.Name)
		}
	}
	if undo {
		return nil // they read such orders, or have not got this one
	}
	var doubts []string
	var to []bundle.Version
	for _, class := range slices.Sorted(maps.Keys(order.Classes)) {
		c := status.Classes[class]
		if c.NoWayBack != "" && stuck[class] {
			return refuse(instead, "release %d cannot be taken back: %s", n, c.NoWayBack)
		}
		if c.BackToDoubt == "" || !stuck[class] {
			continue
		}
		if !slices.Contains(r.To, c.BackTo) {
			doubts = append(doubts, fmt.Sprintf("class %s would go back to release %d, which %s", class, c.BackTo, c.BackToDoubt))
		}
		if !slices.Contains(to, c.BackTo) {
			to = append(to, c.BackTo)
		}
	}
	if len(doubts) > 0 {
		hint := fmt.Sprintf("%s takes its place; `moult revert --to %d %d` goes there all the same", theNext, to[0], n)
		for _, v := range to[1:] {
			hint += fmt.Sprintf(", with --to %d too", v)
		}
		return refuse(hint, "%s", strings.Join(doubts, "; "))
	}
	if deaf := deafTo(order, status); len(deaf) > 0 {
		return refuseDeaf("revert", n, deaf)
	}
	if len(there) == 0 && len(left) > 0 {
		hint := fmt.Sprintf("`moult retry --release %d %s` takes it along, and then it can be taken back", n, left[0])
		if order.State == schedule.StateAborted {
			hint = instead
		}
		return refuse(hint, "only nodes that are skipped are at release %d, and they would stay there: %s", n, named(left))
	}
	if len(there) == 0 && order.State == schedule.StateAborted {
		return refuse(instead, "no node is at release %d, and its rollout was aborted: there is nothing to take back", n)
	}
	if len(there) == 0 {
		return refuse(fmt.Sprintf("`moult abort --release %d` ends its rollout", n), "no node is at release %d, or on its way there: there is nothing to take back", n)
	}
	return nil
}

// finalAlone names a node that has finalized the release by its own word; "" for none.
func finalAlone(order *schedule.Order, status control.Status) string {
	for _, s := range status.Nodes {
		if counts(s) && order.FinalBy(RecordOf(s)) && order.Attempts(s.Class, s.ID) > 0 {
			return cmp.Or(s.Name, s.ID.Short())
		}
	}
	return ""
}

// theNext is the release that takes the place of one that cannot be gone on with.
const theNext = "the next release (`moult inject BUNDLE`)"

// isThere reports whether a node is at a release, or may be before it is up again.
func isThere(s control.NodeStatus, n bundle.Version) bool {
	return max(s.Version, s.Running) >= n || view.Phase(s.Phase).Down() || s.Phase == string(view.Probing)
}

// named lists some names.
func named(names []string) string {
	if more := len(names) - maxNamed; more > 0 {
		names = append(slices.Clone(names[:maxNamed]), fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// concerned counts the nodes that an order is to turn.
func concerned(order *schedule.Order, status control.Status, undo bool) (all Concerned) {
	for _, s := range status.Nodes {
		place := order.Attempts(s.Class, s.ID) > 0
		skipped := !place && order.Names(s.Class, s.ID)
		there := isThere(s, order.Release)
		switch {
		case !counts(s) || !place && !skipped && !s.Reachable:
		case skipped && there != undo:
			all.Skipped++
		case skipped:
		case there != undo:
			all.Go++
		default:
			all.Stay++
		}
	}
	return all
}

package web

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Order is what somebody has asked for on the page.
type Order struct {
	// Action is pause, resume, abort, skip or retry, and Node the ID of whom the last two
	// are about.
	Action string        `json:"action"`
	Node   bundle.NodeID `json:"node,omitzero"`
	// Confirmed is the [Unconfirmed.Identity] that somebody has confirmed, "" for none yet.
	Confirmed string `json:"confirmed"`
}

// Orders gives orders. The error is an [Unconfirmed] where somebody has to confirm it first.
type Orders interface {
	Give(ctx context.Context, o Order) (done string, err error)
}

// Unconfirmed is what somebody has to confirm. What says it in a sentence, which may have
// counts that change all the time; Identity stays the same as long as it is the same change
// of the same rollout order.
type Unconfirmed struct{ What, Identity string }

func (u *Unconfirmed) Error() string { return u.What + ": not confirmed, so nothing was done" }

// Operator signs orders with the keys of a trust folder, which it opens for each. What is
// confirmed is looked at again before it is signed: should it mean something else by now, it
// is asked for anew.
type Operator struct {
	API  *control.Client
	Open func() (*trust.Folder, error)
}

// Give implements [Orders].
func (p Operator) Give(ctx context.Context, o Order) (done string, err error) {
	s, err := p.API.Status(ctx, false)
	if err != nil {
		return "", err
	}
	change, err := changeFor(o, s)
	if err != nil {
		return "", err
	}
	change.Confirm = func(before *schedule.Order, s control.Status) error {
		what, err := meaning(o, before, s)
		if id := identity(o, before, s); err == nil && id != o.Confirmed {
			err = &Unconfirmed{what, id}
		}
		return err
	}
	folder, err := p.Open()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	_, accepted, err := operator.New(folder).Change(ctx, p.API, 0, change)
	return accepted.Message, err
}

// changeFor is the change to the rollout order in force.
func changeFor(o Order, s control.Status) (operator.Change, error) {
	switch o.Action {
	case "pause":
		return operator.Pause(), nil
	case "resume":
		return operator.Resume(), nil
	case "abort":
		return operator.Abort(), nil
	case "skip", "retry":
		n, err := find(o.Node, s)
		if err != nil {
			return operator.Change{}, err
		}
		return operator.ForNode(o.Action, n, n.ID.Short())
	}
	return operator.Change{}, control.Misuse(fmt.Errorf("the page knows no order %q", o.Action), "")
}

func find(id bundle.NodeID, s control.Status) (control.NodeStatus, error) {
	i := slices.IndexFunc(s.Nodes, func(n control.NodeStatus) bool { return n.ID == id })
	if i < 0 {
		return control.NodeStatus{}, control.Misuse(fmt.Errorf("the agent knows no node %s", id.Short()), "")
	}
	return s.Nodes[i], nil
}

// identity names a change of an order. What was signed has another serial, so nobody signs
// the same change twice by confirming it twice.
func identity(o Order, before *schedule.Order, s control.Status) string {
	n, err := find(o.Node, s)
	there := err == nil && n.Reachable // somebody gives their word that it is gone
	return fmt.Sprintf("%s %s release %d serial %d turn %d joins %t there %t", o.Action, o.Node, before.Release, before.Serial, before.Turn,
		operator.JoinWords(before, s) != "", there)
}

// called is a node's name, with its ID where others are called the same.
func called(n control.NodeStatus, s control.Status) string {
	if n.Name == "" {
		return n.ID.Short()
	}
	if slices.ContainsFunc(s.Nodes, func(m control.NodeStatus) bool { return m.ID != n.ID && m.Name == n.Name }) {
		return fmt.Sprintf("%s (%s)", n.Name, n.ID.Short())
	}
	return n.Name
}

// meaning says in one sentence what an order would do to what is in force.
func meaning(o Order, before *schedule.Order, s control.Status) (string, error) {
	way := fmt.Sprintf("the rollout of release %d", before.Release)
	if before.Back() {
		way = fmt.Sprintf("the way back from release %d", before.Release)
	}
	settled, total := operator.SettledOf(before, s)
	done := fmt.Sprintf("%d of %d nodes are through", settled, total)
	switch o.Action {
	case "pause":
		if what := operator.JoinWords(before, s); what != "" {
			return what, nil
		}
		return fmt.Sprintf("pause %s: no further node goes down, and those that are down go on to the end; %s", way, done), nil
	case "resume":
		return fmt.Sprintf("resume %s: nodes go down again, %s; %s", way, budgets(before), done), nil
	case "abort":
		return operator.AbortWords(before, s)
	}
	n, err := find(o.Node, s)
	if err != nil {
		return "", err
	}
	name := called(n, s)
	if o.Action == "retry" {
		return fmt.Sprintf("retry %s: it gets another place in %s, and goes down for it when its turn comes", name, way), nil
	}
	on, next := way+" goes on without it", "; a retry gives it a place again"
	if before.State == schedule.StateAborted {
		on, next = "the rollouts of later releases go on without it", " until a newer release"
	}
	what := fmt.Sprintf("skip %s: you give your word that it is gone, and %s", name, on)
	if n.Reachable {
		what += "; it is there, and stays at the version that it has" + next
	}
	return what, nil
}

// budgets says how many may be down at once.
func budgets(o *schedule.Order) string {
	var words []string
	for _, class := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[class]
		if c.Strategy == bundle.StrategyAtOnce || c.Strategy == bundle.StrategyRandom {
			words = append(words, fmt.Sprintf("any number of class %s at once", class))
		} else {
			words = append(words, fmt.Sprintf("at most %d of class %s at once", c.MaxUnavailable, class))
		}
	}
	return strings.Join(words, ", ")
}

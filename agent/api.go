package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip"
	"moult/gossip/view"
	"moult/store/bundle"
)

// errStopped answers calls that arrive while the agent ends.
var errStopped = errors.New("the agent is ending")

// api is the agent as its control API sees it.
type api struct{ a *Agent }

var _ control.Backend = api{}

// queryStatus is the Serf query that asks a node for its newest record.
const queryStatus = "status"

func (b api) Status(ctx context.Context, live bool) (s control.Status, err error) {
	var heard map[bundle.NodeID]bool
	if live {
		if heard, err = b.a.askPeers(ctx); err != nil {
			return s, err
		}
	}
	if !b.a.ask(func() { s = b.a.status(heard) }) {
		err = errStopped
	}
	return s, err
}

// askPeers has every live peer answer with its own newest record number, and
// exchanges with those from whom something newer is to be had. It returns who
// answered.
func (a *Agent) askPeers(ctx context.Context) (map[bundle.NodeID]bool, error) {
	answers, err := a.ring.Query(ctx, queryStatus, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the peers: %w", err)
	}
	heard := map[bundle.NodeID]bool{a.id: true}
	for r := range answers {
		var said liveAnswer
		if err := json.Unmarshal(r.Payload, &said); err != nil {
			continue
		}
		heard[said.Node] = true
		known := uint64(0)
		a.ask(func() {
			if rec, ok := a.node.View().Get(said.Node); ok {
				known = rec.Seq
			}
		})
		if said.Seq <= known {
			continue
		}
		if err := a.ring.SyncNow(ctx, gossip.Peer{ID: said.Node}); err != nil {
			a.log.Warn("live status of a peer not fetched", "peer", said.Node.Short(), "err", err)
		}
	}
	return heard, nil
}

// liveAnswer is what a node answers to queryStatus.
type liveAnswer struct {
	Node bundle.NodeID `json:"node"`
	Seq  uint64        `json:"seq"`
}

func (a *Agent) answerQuery(name string, _ []byte) (answer []byte) {
	if name != queryStatus {
		return nil
	}
	a.ask(func() {
		data, err := json.Marshal(liveAnswer{Node: a.id, Seq: a.node.Number()})
		if err == nil {
			answer = data
		}
	})
	return answer
}

// status is the cluster as this peer sees it. heard is who answered just now;
// nil: go by the ring.
func (a *Agent) status(heard map[bundle.NodeID]bool) control.Status {
	s := control.Status{
		Cluster: a.cluster.Short(), Head: a.node.Head(), Alarms: a.node.Alarms(),
		Classes: map[bundle.Class]control.ClassStatus{}, Nodes: []control.NodeStatus{},
	}
	if s.Alarms == nil {
		s.Alarms = []string{}
	}
	if a.trust.Expired(time.Now()) {
		s.Alarms = append(s.Alarms, fmt.Sprintf("the signed metadata expired on %s: nothing new starts; `moult trust refresh`, then `moult trust push`", a.trust.Expires().Format(time.DateOnly)))
	}
	alive := func(id bundle.NodeID) bool { return heard[id] }
	if heard == nil {
		alive = a.node.Alive
	}
	for _, r := range a.node.Known() {
		n := control.NodeStatus{
			Name: cmp.Or(r.Name, r.Node.Short()), Standing: string(a.node.Standing(r)), ID: r.Node, Class: r.Class, Version: r.Version, Runs: a.runs(r), Phase: string(r.Phase), Health: string(r.Health.State), Target: r.Target,
			Progress: r.Progress, Reachable: alive(r.Node), Reason: r.Reason, Since: r.Since, Number: r.Seq, Address: r.Addr, Platform: r.Platform,
			Services: map[string]control.ServiceStatus{},
		}
		for name, sv := range r.Services {
			n.Services[name] = control.ServiceStatus{Public: sv.Public, Versions: sv.Versions, Attach: sv.Attach, Egress: sv.Egress}
		}
		if n.Phase == string(upgrade.Waiting) && a.node.View().Len() <= maxExplained {
			n.Reason = a.waitsFor(r)
		}
		if r.Health.Unwell() {
			n.Reason = strings.TrimSuffix(r.Health.Reason+"; "+n.Reason, "; ")
		}
		if n.Phase == string(upgrade.Current) || n.Phase == string(upgrade.Settled) {
			n.Progress = 1
		}
		s.Nodes = append(s.Nodes, n)
	}
	slices.SortFunc(s.Nodes, func(x, y control.NodeStatus) int {
		return strings.Compare(x.Name+x.ID.String(), y.Name+y.ID.String())
	})
	a.releaseStatus(&s)
	s.Local = a.local()
	return s
}

// releaseStatus fills in how far the newest release is.
func (a *Agent) releaseStatus(s *control.Status) {
	head := a.node.Head()
	count(s, head)
	if head == 0 {
		s.Release = control.ReleaseStatus{State: control.StateNone}
		return
	}
	ref, _ := a.trust.Release(head)
	s.Release = control.ReleaseStatus{Version: head, Digest: ref.Digest, State: control.StateSpreading}
	if a.node.Conflicted(head) {
		s.Release.State, s.Release.Reason = control.StateHeld, "two releases with this number are signed: both are frozen"
		return
	}
	unwell := 0
	for _, c := range s.Classes {
		unwell += c.Unwell
	}
	o := a.node.Orders()[head]
	if o == nil {
		s.Release.Reason = "it has no rollout order here yet"
	} else {
		sum := schedule.Summary(o, a.node.View().Get)
		for class, c := range sum.Classes {
			cs := s.Classes[class]
			cs.Budget = c.Budget
			s.Classes[class] = cs
			unwell += c.Unwell // also those that failed in their soak and are well again
		}
		s.Release.State, s.Release.Reason = sum.State, sum.Reason
	}
	var counted, behind, outside int
	var away []string
	for _, n := range s.Nodes {
		if n.Standing != "" {
			continue
		}
		counted++
		if n.Version >= head {
			continue
		}
		behind++
		if o == nil || !o.Names(n.Class, n.ID) {
			outside++
		} else if !n.Reachable {
			away = append(away, a.node.NameOf(n.ID))
		}
	}
	switch {
	case behind > 0 && len(away) == behind && s.Release.State == control.StateRolling:
		s.Release.Reason = fmt.Sprintf("only nodes that cannot be reached are below it: %s; `moult skip %s` goes on without it",
			strings.Join(away[:min(len(away), maxNamed)], ", "), away[0])
	case behind == 0 && counted > 0 && unwell == 0:
		s.Release.State, s.Release.Reason = control.StateComplete, ""
	case behind == 0 && o == nil:
		s.Release.State, s.Release.Reason = control.StateRolling, "nodes at the release are not well"
	case outside > 0 && s.Release.State == control.StateComplete:
		s.Release.State, s.Release.Reason = control.StateRolling, fmt.Sprintf("%d nodes that are not in the rollout order are below release %d", outside, head)
	}
}

// count fills in the counts of each class.
func count(s *control.Status, head bundle.Version) {
	for _, n := range s.Nodes {
		if n.Standing != "" {
			continue
		}
		c := s.Classes[n.Class]
		c.Total++
		switch {
		case n.Version >= head && n.Version > 0 && (view.Health{State: view.HealthState(n.Health)}).Unwell():
			c.Unwell++
		case n.Version >= head && n.Version > 0 && n.Health != string(view.HealthUnknown):
			c.Settled++
		case upgrade.Phase(n.Phase).Down():
			c.Down++
		case n.Phase == string(upgrade.Held):
			c.Held++
		default:
			c.Waiting++
		}
		s.Classes[n.Class] = c
	}
}

func (b api) Members(context.Context) (ms []control.Member, err error) {
	ms = []control.Member{}
	if !b.a.ask(func() {
		for _, m := range b.a.ring.Members() {
			c := control.Member{Name: m.Name, ID: m.ID, Address: m.Addr, State: string(m.Status)}
			if r, ok := b.a.node.View().Get(m.ID); ok {
				c.Class, c.Platform = r.Class, r.Platform
			}
			ms = append(ms, c)
		}
	}) {
		return nil, errStopped
	}
	slices.SortFunc(ms, func(x, y control.Member) int { return strings.Compare(x.Name, y.Name) })
	return ms, nil
}

// Why answers for any node: what it says of itself, and for a waiting one what
// the schedule says of it here.
func (b api) Why(_ context.Context, node string) (w control.Why, err error) {
	if !b.a.ask(func() { w, err = b.a.why(node) }) {
		err = errStopped
	}
	return w, err
}

func (a *Agent) why(node string) (control.Why, error) {
	r, err := a.find(node)
	if err != nil {
		return control.Why{}, err
	}
	w := control.Why{Node: r.Name, ID: r.Node, Phase: string(r.Phase), Version: r.Version, Runs: a.runs(r), Target: r.Target, Reason: r.Reason}
	name, head := a.node.NameOf(r.Node), a.node.Head()
	w.Node = cmp.Or(r.Name, name)
	switch {
	case r.Phase == "":
		w.Code, w.Command = "unknown", "moult forget "+name
		w.Reason = "nothing is known of it but that it stands in a rollout order"
	case r.Left:
		w.Code, w.Command = "left", a.forgetCommand(name)
		w.Reason = "its agent has left the ring, and no later release waits for it: start the agent again, or have the node forgotten"
	case a.node.Standing(r) != schedule.StandingIn && !a.node.Alive(r.Node):
		w.Code, w.Command = string(a.node.Standing(r)), a.forgetCommand(name)
		w.Reason = "it cannot be reached, and no rollout waits for it: start its agent again, or have the node forgotten"
	case r.Held:
		w.Code, w.Command = "held", "moult retry "+name
		if o := a.node.Orders()[head]; o != nil && o.State == schedule.StateAborted {
			w.Command = "moult inject BUNDLE"
		}
	case r.Version >= head && (r.Health.Unwell() || a.failedSoak(r, head)):
		w.Code, w.Reason, w.Command = a.whyUnwell(r, head)
	case r.Version >= head && r.Target == 0:
		w.Code, w.Reason = "current", "it waits for nothing: it is at the newest release"
	case r.Phase == upgrade.Waiting, r.Phase == upgrade.Current:
		d := a.decision(r)
		w.Code, w.Command, w.Reason = d.Code, d.Command, a.waitsFor(r)
	default:
		w.Code = "under way"
		if w.Reason == "" {
			w.Reason = fmt.Sprintf("it has been %s since %s", r.Phase, r.Since.Format(time.RFC3339))
		}
	}
	return w, nil
}

// runs is the version that a node runs, where that is not the software of the one that
// it says it is at: it was admitted and has not settled, or the data folder is older. 0
// where it is, for all that is known here.
func (a *Agent) runs(r view.Record) bundle.Version {
	lo, hi := min(r.Running, r.Version), max(r.Running, r.Version)
	for v, m := range a.node.Manifests() {
		if _, changes := m.Classes[r.Class]; changes && r.Running != 0 && lo < v && v <= hi {
			return r.Running
		}
	}
	return 0
}

// failedSoak reports that the failure of a node in its soak holds up the rollout of a
// release.
func (a *Agent) failedSoak(r view.Record, release bundle.Version) bool {
	o, failed := a.node.Orders()[release], r.Health.Failed
	if o == nil || failed.Release != release {
		return false
	}
	places := o.Attempts(r.Class, r.Node)
	return places > 0 && failed.Count >= places
}

// whyUnwell tells what is wrong with the software of a node at the newest release, and
// how others may go on all the same.
func (a *Agent) whyUnwell(r view.Record, head bundle.Version) (code, reason, command string) {
	reason = "its software failed in its soak, and is well now"
	if r.Health.Unwell() {
		reason = fmt.Sprintf("its software is %s: %s; see log/node.log of its data folder", r.Health.State, r.Health.Reason)
	}
	if a.failedSoak(r, head) {
		return "soak-failed", reason + fmt.Sprintf("; it counts as failed under release %d until its soak is tried again", head), fmt.Sprintf("moult retry --release %d %s", head, a.node.NameOf(r.Node))
	}
	if c := schedule.Summary(a.node.Orders()[head], a.node.View().Get).Classes[r.Class]; c.Waiting > 0 {
		reason += fmt.Sprintf("; %d nodes of its class wait for it", c.Waiting)
		command = fmt.Sprintf("moult skip --release %d %s", head, a.node.NameOf(r.Node))
	}
	return schedule.CodeUnwell, reason, command
}

// decision is why a node may or may not go down, as far as this peer knows;
// of this node itself, as it was last decided.
func (a *Agent) decision(r view.Record) schedule.Reason {
	if wait := a.node.Waits(); r.Node == a.id && wait.Code != "" {
		return wait
	}
	in := a.node.Input(max(r.Target, a.node.Head()))
	in.Self, in.Class, in.Synced = r.Node, r.Class, true
	return schedule.Decide(in).Reason
}

// waitsFor tells it in words.
func (a *Agent) waitsFor(r view.Record) string {
	d := a.decision(r)
	switch {
	case d.Code == schedule.CodeGo && r.Phase == upgrade.Current && r.Reason != "":
		return r.Reason // the schedule is not what it waits for
	case d.Code == schedule.CodeGo:
		return "nothing holds it back, as far as this peer knows"
	case d.Text != "":
		return d.Text
	}
	return r.Reason
}

// find returns the record of a node by its name or a unique prefix of its ID.
func (a *Agent) find(node string) (view.Record, error) {
	return control.Find(a.node.Known(), node, func(r view.Record) (string, bundle.NodeID) { return r.Name, r.Node })
}

func (b api) Trust(context.Context) (t control.Trust, err error) {
	if !b.a.ask(func() {
		t = control.Trust{Head: b.a.node.Head(), Orders: map[bundle.Version][]byte{}}
		if t.Set, err = b.a.trust.Set().Marshal(); err != nil {
			return
		}
		for n, o := range b.a.node.Orders() {
			if t.Orders[n], err = schedule.MarshalOrder(o); err != nil {
				return
			}
		}
	}) {
		err = errStopped
	}
	return t, err
}

func (b api) Info(context.Context) (i control.Info, err error) {
	stats := b.a.layer.Stats()
	if !b.a.ask(func() {
		a := b.a
		i = control.Info{
			Name: a.cfg.Name, ID: a.id, Cluster: a.cluster.Short(), Class: a.cfg.Class, PID: os.Getpid(), Bind: a.ring.Addr(),
			NodePID: a.soft.PID(), Objects: a.changed, LongestHold: bundle.Duration(stats.LongestHold),
			Traffic: control.Traffic{Fetched: maps.Clone(a.fetch.Stats())},
		}
	}) {
		err = errStopped
	}
	return i, err
}

// Resolve answers for the software that runs: its version is what peers take the
// call for.
func (b api) Resolve(_ context.Context, address string) (r control.Resolved, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return r, control.Misuse(fmt.Errorf("resolve %.200q: want host:port", address), "")
	}
	if !b.a.ask(func() {
		if r.Version = b.a.answers.Speaks; r.Version == 0 {
			r.Version = b.a.saved.Running
		}
	}) {
		return r, errStopped
	}
	if r.Version == 0 {
		return r, &control.Error{Kind: control.KindFailed, Message: "resolve " + address + ": this agent has not yet found out which version its node runs", Hint: "ask again in a moment"}
	}
	to, isPeer, err := b.a.resolve(address, r.Version)
	switch {
	case !isPeer:
		r.Address = address
	case err != nil:
		return r, control.Refused(fmt.Errorf("resolve: %w", err), "see `moult status`")
	default:
		r.Address, r.Peer = to, true
	}
	return r, nil
}

func (b api) Accept(_ context.Context, signed control.Signed) (acc control.Accepted, err error) {
	if !b.a.ask(func() {
		if err = b.a.accept(signed); err != nil {
			return
		}
		acc = control.Accepted{Version: b.a.node.Head(), Digest: b.a.trust.Digest(), Message: "signed and handed over; it spreads"}
	}) {
		err = errStopped
	}
	return acc, err
}

func (b api) Join(ctx context.Context, addrs []string) (int, error) {
	n, err := b.a.ring.Join(ctx, addrs)
	if err != nil {
		return n, fmt.Errorf("join %s: %w", strings.Join(addrs, ", "), err)
	}
	return n, nil
}

// forgetCommand has a node forgotten; "" before any rollout order is signed, which says so.
func (a *Agent) forgetCommand(name string) string {
	if len(a.node.Orders()) == 0 {
		return ""
	}
	return "moult forget " + name
}

// Leave tells the ring, and ends the agent. The node's software goes on.
func (b api) Leave(ctx context.Context) error {
	var phase upgrade.Phase
	if !b.a.ask(func() {
		if phase = b.a.node.State().Phase; !phase.Down() {
			b.a.step(node.Leave{}) // from now on the node does not go down
			b.a.flush()
		}
	}) {
		return errStopped
	}
	if phase.Down() {
		return control.Refused(fmt.Errorf("leave: the node is %s, and its agent would leave it down", phase), "wait until it is up again: see `moult status`")
	}
	if err := b.a.ring.Leave(ctx); err != nil {
		return err
	}
	b.a.quit()
	return nil
}

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
	"moult/transforms"
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
	case a.node.Standing(r) == schedule.StandingStranger:
		w.Code, w.Command = "not-enrolled", "moult member add "+name
		w.Reason = "it is not enrolled, so no rollout takes it along and no call of others comes to it: enrol it, if it is yours"
	case a.node.Standing(r) != schedule.StandingIn && !a.node.Alive(r.Node):
		w.Code, w.Command = string(a.node.Standing(r)), a.forgetCommand(name)
		w.Reason = "it cannot be reached, and no rollout waits for it: start its agent again, or have the node forgotten"
	case r.Node != a.id && !a.node.Alive(r.Node):
		w.Code, w.Reason = "unreachable", a.unreachable(r)
		if o := a.node.Orders()[a.node.Rolling()]; o != nil && o.Names(r.Class, r.Node) && r.Version < o.Release {
			w.Command = fmt.Sprintf("moult skip --release %d %s", o.Release, name)
		} else {
			w.Command = a.forgetCommand(name)
		}
	case r.Held:
		w.Code, w.Command = "held", "moult retry "+name
		o := a.node.Orders()[head]
		aborted := o != nil && o.State == schedule.StateAborted
		next, from, withdrawn := a.afterWithdrawn(r.Class)
		switch v := a.inTheWay(r.Class); {
		case withdrawn:
			w.Command = "moult inject BUNDLE"
			w.Reason += fmt.Sprintf("; that is withdrawn: release %d, built with from = %d, goes around it", next, from)
		case aborted && v != 0:
			w.Command = fmt.Sprintf("moult withdraw --class %s %d", r.Class, v)
			w.Reason += fmt.Sprintf("; its rollout is aborted: withdraw release %d for the next one to go around it, or inject one that its nodes can take on top of it", v)
		case aborted:
			w.Command = "moult inject BUNDLE"
		case v != 0 && r.Running < v:
			w.Reason += fmt.Sprintf("; if it cannot be mended here, `moult withdraw --class %s %d` has the next release go around it", r.Class, v)
		}
	case r.Version >= head && (r.Health.Unwell() || a.failedSoak(r, head)):
		w.Code, w.Reason, w.Command = a.whyUnwell(r, head)
	case r.Version >= head && r.Target == 0:
		w.Code, w.Reason = "current", "it waits for nothing: it is at the newest release"
	case r.Phase == upgrade.Waiting, r.Phase == upgrade.Current:
		d := a.decision(r)
		w.Code, w.Command, w.Reason = d.Code, d.Command, a.waitsFor(r)
		w.Reason += ofCopy(r)
	default:
		w.Code = "under way"
		if w.Reason == "" {
			w.Reason = fmt.Sprintf("it has been %s since %s", r.Phase, r.Since.Format(time.RFC3339))
		}
	}
	return w, nil
}

// unreachable tells of a node that counts and cannot be reached.
func (a *Agent) unreachable(r view.Record) string {
	since := ""
	if away := a.node.Away(r.Node); !away.IsZero() {
		since = fmt.Sprintf(" since %s (for %s)", away.Format(time.RFC3339), bundle.Duration(time.Since(away).Round(time.Second)))
	}
	return fmt.Sprintf("its agent cannot be reached%s; the last that it said is that it was %s: start it again, or, if it is gone for good, go on without it", since, r.Phase)
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
	if wait := a.node.Waits(); r.Node == a.id && wait.Code != "" && wait.Retry == 0 {
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
	case d.Retry > 0:
		return fmt.Sprintf("%s; %s to go", d.Text, bundle.Duration(d.Retry.Round(time.Second)))
	case d.Text != "":
		return d.Text
	}
	return r.Reason
}

// find returns the record of a node by its name or a unique prefix of its ID.
func (a *Agent) find(node string) (view.Record, error) {
	return control.Find(a.node.Known(), node, func(r view.Record) (string, bundle.NodeID) { return r.Name, r.Node })
}

// ofCopy is what a node warns of that will copy its state.
func ofCopy(r view.Record) string {
	if i := slices.IndexFunc(r.Alarms, node.IsCopyWarning); i >= 0 {
		return "; " + r.Alarms[i]
	}
	return ""
}

func (b api) Trust(context.Context) (t control.Trust, err error) {
	if !b.a.ask(func() {
		t = control.Trust{Head: b.a.node.Head(), Orders: map[bundle.Version][]byte{}, OpenRing: b.a.cfg.OpenRing, Closed: b.a.node.Closed()}
		if m := b.a.node.Members(); m != nil {
			if t.Members, err = m.Marshal(); err != nil {
				return
			}
		}
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

// StateCopy measures how long the state takes to copy.
func (b api) StateCopy(ctx context.Context) (c control.StateCopy, err error) {
	var slots *transforms.Slots
	if !b.a.ask(func() { c.Version, slots = b.a.saved.Running, b.a.slots }) {
		return c, errStopped
	}
	if c.Version == 0 {
		return c, nil
	}
	e, err := slots.EstimateCopy(ctx, c.Version)
	c.Files, c.Bytes, c.Takes = e.Files, e.Bytes, bundle.Duration(e.Takes)
	return c, err
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

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/agent/home"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip"
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
	return ask(b.a, &statusWanted{heard: heard})
}

// askPeers has every live peer answer with its own newest record number, and
// exchanges with those from whom something newer is to be had. It returns who
// answered.
func (a *Agent) askPeers(ctx context.Context) (map[bundle.NodeID]bool, error) {
	answers, err := a.ring.Query(ctx, queryStatus, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the peers: %w", err)
	}
	heard := map[bundle.NodeID]bool{a.ID: true}
	for r := range answers {
		var said liveAnswer
		if err := json.Unmarshal(r.Payload, &said); err != nil {
			continue
		}
		heard[said.Node] = true
		if known, err := ask(a, &numberWanted{node: said.Node}); err != nil || said.Seq <= known {
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

func (a *Agent) answerQuery(name string, _ []byte) []byte {
	if name != queryStatus {
		return nil
	}
	number, err := ask(a, &numberWanted{node: a.ID})
	if err != nil {
		return nil
	}
	answer, err := json.Marshal(liveAnswer{Node: a.ID, Seq: number})
	if err != nil {
		return nil
	}
	return answer
}

func (l *loop) numberOf(node bundle.NodeID) uint64 {
	if node == l.ID {
		return l.node.Number()
	}
	r, _ := l.node.View().Get(node)
	return r.Seq
}

func (b api) Members(context.Context) ([]control.Member, error) { return ask(b.a, &membersWanted{}) }

func (l *loop) members() []control.Member {
	ms := []control.Member{}
	for _, m := range l.ring.Members() {
		r, _ := l.node.View().Get(m.ID)
		ms = append(ms, control.Member{Name: m.Name, ID: m.ID, Address: m.Addr, State: string(m.Status), Class: r.Class, Platform: r.Platform})
	}
	slices.SortFunc(ms, func(x, y control.Member) int { return strings.Compare(x.Name, y.Name) })
	return ms
}

func (b api) Why(_ context.Context, node string) (control.Why, error) {
	return ask(b.a, &whyWanted{node: node})
}

func (b api) Trust(context.Context) (control.Trust, error) { return ask(b.a, &trustWanted{}) }

// documents are the signed documents in force.
func (l *loop) documents() (t control.Trust, err error) {
	t = control.Trust{Head: l.node.Head(), Orders: map[bundle.Version][]byte{}, OpenRing: l.cfg.OpenRing, Closed: l.node.Closed()}
	if m := l.node.Members(); m != nil {
		if t.Members, err = m.Marshal(); err != nil {
			return t, err
		}
	}
	for n, o := range l.node.Orders() {
		if t.Orders[n], err = schedule.MarshalOrder(o); err != nil {
			return t, err
		}
	}
	newest := l.node.Rolling()
	if d, ok := l.node.ManifestDigests()[newest]; ok {
		// As it was signed: the node keeps it without what is withdrawn. One that cannot be
		// read is left out, for orders can be signed without it.
		if data, ok, err := l.Depot.Blob(d); err == nil && ok {
			t.Manifests = map[bundle.Version][]byte{newest: data}
		}
	}
	t.Set, err = l.trust.Set().Marshal()
	return t, err
}

func (b api) History(context.Context) (control.History, error) { return b.a.History() }

func (b api) HistoryOf(ctx context.Context, node string) (control.History, error) {
	r, err := ask(b.a, &recordWanted{node: node})
	if err != nil {
		return control.History{}, err
	}
	if r.Node == b.a.ID {
		return b.History(ctx)
	}
	past, err := b.a.Seen(r.Node)
	if err != nil {
		return control.History{}, err
	}
	past.See(home.SightingOf(r)) // it may not be written yet
	return past.History, nil
}

func (b api) Info(context.Context) (control.Info, error) {
	return control.Info{
		Name: b.a.cfg.Name, ID: b.a.ID, Cluster: b.a.Cluster.Short(), Class: b.a.cfg.Class, PID: os.Getpid(), Bind: b.a.ring.Addr(),
		NodePID: b.a.soft.PID(), Objects: int(b.a.changed.Load()), LongestHold: bundle.Duration(b.a.layer.Stats().LongestHold),
		Traffic: control.Traffic{Fetched: b.a.fetch.Stats()}, Agent: b.a.build(),
	}, nil
}

// StateCopy measures how long the state takes to copy.
func (b api) StateCopy(ctx context.Context) (c control.StateCopy, err error) {
	if c.Version, err = ask(b.a, &runningWanted{}); err != nil || c.Version == 0 {
		return c, err
	}
	e, err := b.a.Slots.EstimateCopy(ctx, c.Version)
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
	if r.Version, err = ask(b.a, &callingWanted{}); err != nil {
		return r, err
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

func (b api) Accept(_ context.Context, signed control.Signed) (control.Accepted, error) {
	return ask(b.a, &documentsHanded{signed: signed})
}

func (l *loop) takeDocuments(signed control.Signed) (control.Accepted, error) {
	if err := l.accept(signed); err != nil {
		return control.Accepted{}, err
	}
	return control.Accepted{Version: l.node.Head(), Digest: l.trust.Digest(), Message: "signed and handed over; it spreads"}, nil
}

func (b api) Join(ctx context.Context, addrs []string) (int, error) {
	n, err := b.a.ring.Join(ctx, addrs)
	if err != nil {
		return n, fmt.Errorf("join %s: %w", strings.Join(addrs, ", "), err)
	}
	return n, nil
}

// Leave tells the ring, and ends the agent. The node's software goes on.
func (b api) Leave(ctx context.Context) error {
	if b.a.builds.State().OnTrial {
		return control.Refused(errors.New("leave: this agent is on trial, and the one of before would come back"), "wait until that is over: see `moult status`")
	}
	phase, err := ask(b.a, &leaveWanted{})
	if err != nil {
		return err
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

// leave has the node not go down from now on, unless it is already, and returns its phase.
func (l *loop) leave() upgrade.Phase {
	phase := l.node.State().Phase
	if !phase.Down() {
		l.step(node.Leave{})
		l.flush()
	}
	return phase
}

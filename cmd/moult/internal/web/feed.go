package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"moult/agent/control"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Agent is what the page asks of an agent; a [control.Client] is one.
type Agent interface {
	Status(ctx context.Context, live bool) (control.Status, error)
	Info(ctx context.Context) (control.Info, error)
	Why(ctx context.Context, node string) (control.Why, error)
	History(ctx context.Context) (control.History, error)
}

// tile is what the page knows of a node.
type tile struct {
	ID        bundle.NodeID     `json:"id"`
	Name      string            `json:"name"`
	Class     bundle.Class      `json:"class"`
	Labels    map[string]string `json:"labels,omitempty"`
	Version   bundle.Version    `json:"version"`
	Runs      bundle.Version    `json:"runs,omitempty"`
	Running   bundle.Version    `json:"running,omitempty"`
	Target    bundle.Version    `json:"target,omitempty"`
	Phase     string            `json:"phase"`
	Progress  float64           `json:"progress,omitempty"`
	Health    string            `json:"health,omitempty"`
	Unwell    bool              `json:"unwell,omitempty"`
	Reachable bool              `json:"reachable"`
	Away      time.Time         `json:"away,omitzero"`
	Standing  string            `json:"standing,omitempty"`
	Reason    string            `json:"reason,omitempty"`
	Since     time.Time         `json:"since,omitzero"`
	Address   string            `json:"address,omitempty"`
	Platform  bundle.Platform   `json:"platform"`
	Rehearsed view.Rehearsal    `json:"rehearsed,omitzero"`
	Past      []span            `json:"past"`
}

func tileOf(n control.NodeStatus, past []span) tile {
	return tile{
		ID: n.ID, Name: n.Name, Class: n.Class, Labels: n.Labels, Version: n.Version, Runs: n.Runs, Running: n.Running, Target: n.Target,
		Phase: n.Phase, Progress: n.Progress, Health: n.Health, Unwell: view.Health{State: view.HealthState(n.Health)}.Unwell(),
		Reachable: n.Reachable, Away: n.Away, Standing: n.Standing, Reason: n.Reason, Since: n.Since, Address: n.Address,
		Platform: n.Platform, Rehearsed: n.Rehearsed, Past: past,
	}
}

// Parts of what is told beside the nodes.
const (
	partAgent   = "agent"
	partHead    = "head"
	partOwn     = "own"
	partTraffic = "traffic"
	partHistory = "history"
)

// head is what is said of the cluster as a whole.
type head struct {
	Cluster bundle.Digest                        `json:"cluster"`
	Head    bundle.Version                       `json:"head"`
	Release control.ReleaseStatus                `json:"release"`
	Back    bool                                 `json:"back"`
	Classes map[bundle.Class]control.ClassStatus `json:"classes"`
	Alarms  []string                             `json:"alarms"`
	Lasts   time.Time                            `json:"lasts,omitzero"`
}

// contact tells whether the agent answers. One that does and has an Error has not answered
// everything.
type contact struct {
	Answers bool   `json:"answers"`
	Error   string `json:"error,omitempty"`
	Hint    string `json:"hint,omitempty"`
	// Since is when it has stopped to; Node is whose agent it is, and Orders tells whether
	// the page may give orders.
	Since  time.Time     `json:"since,omitzero"`
	Node   bundle.NodeID `json:"node,omitzero"`
	Name   string        `json:"name,omitempty"`
	Orders bool          `json:"orders"`
}

// revised is a piece of JSON, and since which revision it is so.
type revised struct {
	json []byte
	rev  uint64
}

// node is one node with its tile as it is told.
type node struct {
	tile tile
	told revised
}

// feed asks the agent and keeps what it said.
type feed struct {
	agent  Agent
	every  time.Duration
	orders bool

	// of run's goroutine alone
	contact contact
	history *control.History
	known   string // what History was asked for at: the own node's phase and since when

	mu      sync.Mutex
	rev     uint64
	whole   uint64 // the revision at which a node went: older readers are told everything
	parts   map[string]revised
	nodes   map[bundle.NodeID]*node
	past    *control.History
	cluster bundle.Digest
	changed chan struct{} // closed at the next revision
}

func newFeed(agent Agent, every time.Duration, orders bool) *feed {
	return &feed{agent: agent, every: every, orders: orders, parts: map[string]revised{}, nodes: map[bundle.NodeID]*node{}, changed: make(chan struct{}),
		contact: contact{Orders: orders}}
}

// run asks until ctx ends.
func (f *feed) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		f.look(ctx)
		timer.Reset(max(f.every, 4*time.Since(began)))
	}
}

// look asks once. What the agent says of the cluster is told first, whatever becomes of the
// other questions.
func (f *feed) look(ctx context.Context) {
	status, err := f.status(ctx)
	if err != nil {
		f.lost(err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	back := !f.contact.Answers
	if back {
		f.contact.Answers, f.contact.Since, f.contact.Error, f.contact.Hint = true, time.Time{}, "", ""
	}
	f.take(status, map[string]any{
		partAgent: f.contact,
		partHead: head{Cluster: status.Cluster, Head: status.Head, Release: status.Release, Back: status.Release.Back(),
			Classes: status.Classes, Alarms: status.Alarms, Lasts: status.Lasts},
		partOwn: status.Local,
	})
	beside := map[string]any{}
	info, infoErr := f.agent.Info(ctx)
	if infoErr == nil {
		f.contact.Node, f.contact.Name = info.ID, info.Name
		beside[partTraffic] = info.Traffic
	}
	err = errors.Join(infoErr, f.askHistory(ctx, status, back))
	f.contact.Error = ""
	if err != nil {
		f.contact.Error = err.Error()
	}
	beside[partAgent], beside[partHistory] = f.contact, f.history
	f.tell(beside)
}

func (f *feed) status(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return f.agent.Status(ctx, false)
}

// askHistory asks for the own node's journal where its phase has changed since, or the agent
// was away.
func (f *feed) askHistory(ctx context.Context, s control.Status, back bool) error {
	i := slices.IndexFunc(s.Nodes, func(n control.NodeStatus) bool { return n.ID == f.contact.Node })
	if i < 0 {
		return nil
	}
	now := s.Nodes[i].Phase + s.Nodes[i].Since.String()
	if f.history != nil && !back && f.known == now {
		return nil
	}
	f.known = "" // it is asked for again until it is told
	h, err := f.agent.History(ctx)
	if err != nil {
		return err
	}
	f.history, f.known = &h, now
	return nil
}

// lost keeps what is known, and says that the agent does not answer.
func (f *feed) lost(err error) {
	if f.contact.Answers || f.contact.Since.IsZero() {
		f.contact.Since = time.Now().UTC()
	}
	f.contact.Answers, f.contact.Error, f.contact.Hint = false, err.Error(), ""
	if e, ok := errors.AsType[*control.Error](err); ok {
		f.contact.Hint = e.Hint
	}
	f.tell(map[string]any{partAgent: f.contact})
}

// tell is what there is to say beside the nodes.
func (f *feed) tell(parts map[string]any) {
	encoded := encode(parts)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.past = f.history
	f.publish(f.putParts(encoded), false)
}

func encode(parts map[string]any) map[string][]byte {
	encoded := map[string][]byte{}
	for name, v := range parts {
		if data, err := json.Marshal(v); err == nil { // they came as JSON: none can fail
			encoded[name] = data
		}
	}
	return encoded
}

// take is what an agent says of the cluster, with its nodes.
func (f *feed) take(s control.Status, parts map[string]any) {
	encoded := encode(parts)
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	next, news := f.rev+1, f.putParts(encoded)
	f.cluster = s.Cluster
	there := map[bundle.NodeID]bool{}
	for _, n := range s.Nodes {
		there[n.ID] = true
		old := f.nodes[n.ID]
		if old == nil {
			old = &node{}
			f.nodes[n.ID] = old
		}
		old.tile = tileOf(n, seen(old.tile.Past, n, now))
		data, err := json.Marshal(old.tile)
		if err != nil || bytes.Equal(data, old.told.json) {
			continue // no field of it can fail
		}
		old.told, news = revised{data, next}, true
	}
	gone := len(f.nodes) > len(there)
	maps.DeleteFunc(f.nodes, func(id bundle.NodeID, _ *node) bool { return !there[id] })
	f.publish(news, gone)
}

// putParts keeps parts for the next revision.
func (f *feed) putParts(parts map[string][]byte) (news bool) {
	for name, data := range parts {
		if !bytes.Equal(f.parts[name].json, data) {
			f.parts[name], news = revised{data, f.rev + 1}, true
		}
	}
	return news
}

// publish wakes the readers if there is something new. gone tells that nodes are not there
// any more.
func (f *feed) publish(news, gone bool) {
	if !news && !gone {
		return
	}
	f.rev++
	if gone {
		f.whole = f.rev
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// news is what a reader is told.
type news struct {
	// Whole tells that it is everything, and what was known before counts no more.
	Whole bool                       `json:"whole"`
	Rev   uint64                     `json:"rev"`
	Parts map[string]json.RawMessage `json:"parts"`
	Nodes []json.RawMessage          `json:"nodes"`
}

// since is what is new for a reader who has seen revision rev, 0 for none, and a channel that
// is closed when there is more; news with revision 0 where there is nothing yet.
func (f *feed) since(rev uint64) (news, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := news{Rev: f.rev, Whole: rev == 0 || rev < f.whole, Parts: map[string]json.RawMessage{}, Nodes: []json.RawMessage{}}
	if n.Whole {
		rev = 0
	}
	for name, p := range f.parts {
		if p.rev > rev {
			n.Parts[name] = p.json
		}
	}
	for _, node := range f.nodes {
		if node.told.rev > rev {
			n.Nodes = append(n.Nodes, node.told.json)
		}
	}
	return n, f.changed
}

// timeline is what was seen so far.
func (f *feed) timeline() Timeline {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := Timeline{Cluster: f.cluster, At: time.Now().UTC(), Nodes: []TimelineRow{}}
	for _, n := range f.nodes {
		t.Nodes = append(t.Nodes, n.row(f.past))
	}
	slices.SortFunc(t.Nodes, func(a, b TimelineRow) int {
		return bytes.Compare([]byte(a.Name+a.ID.String()), []byte(b.Name+b.ID.String()))
	})
	return t
}

package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/archive"
)

// Ring is what a plan knows from an agent.
type Ring struct {
	// Refused is why that agent would not take the release; empty where it would.
	Refused string `json:"refused,omitempty"`
	// Doubts are what of the release does not fit the nodes.
	Doubts []string `json:"doubts,omitempty"`
	// Signed tells that the rollout order is there already; else it is the one
	// that `moult inject` would make now.
	Signed  bool        `json:"signed"`
	Classes []RingClass `json:"classes"`

	agents bundle.Version // whose agent the order has agents replaced by; 0: none
}

// RingClass is what would happen to the nodes of one class.
type RingClass struct {
	Class bundle.Class `json:"class"`
	// Changed is false where the release leaves the class as it is.
	Changed  bool   `json:"changed"`
	Strategy string `json:"strategy"`
	// Budget is how many may be down at once.
	Budget int        `json:"budget"`
	Nodes  []RingNode `json:"nodes"` // in the order in which they may go
	// Expected is how long it may take; nil where no rehearsal tells.
	Expected *Expected `json:"expected,omitempty"`

	rehearses bool // nodes have been told to rehearse
}

// Expected is how long a class may take, by what rehearsals took: without what nodes wait
// for beside those before them and the soaks.
type Expected struct {
	Takes bundle.Duration `json:"takes"`
	// Nodes are those that are yet to go, without those that the release has failed on in a
	// rehearsal, and Known those of them that have told how long they would be down; the others count as the median of these, Down.
	Nodes int             `json:"nodes"`
	Known int             `json:"known"`
	Down  bundle.Duration `json:"down"`
}

// RingNode is a node in its place.
type RingNode struct {
	Rank      int            `json:"rank"` // from 1
	Name      string         `json:"name"`
	ID        bundle.NodeID  `json:"id"`
	Version   bundle.Version `json:"version"`
	Phase     string         `json:"phase"`
	Reachable bool           `json:"reachable"`
	Canary    bool           `json:"canary,omitempty"`
	Wave      int            `json:"wave,omitempty"`
	Skipped   bool           `json:"skipped,omitempty"`
	// Rehearsed is what came of this release's rehearsal there; zero for none.
	Rehearsed view.Rehearsal `json:"rehearsed,omitzero"`

	since time.Time // it is in its phase
}

// Ask asks an agent who runs what, and works out who would go when.
func Ask(ctx context.Context, api *control.Client, b *archive.Bundle, root []byte) (*Ring, error) {
	status, err := api.Status(ctx, false)
	if err != nil {
		return nil, err
	}
	peer, err := api.Trust(ctx)
	if err != nil {
		return nil, err
	}
	part := &Ring{Doubts: operator.Doubts(b.Head(), status), Classes: []RingClass{}}
	if err := operator.Fits(root, b, peer, status); err != nil {
		part.Refused = err.Error()
	}
	if doubt := longCopy(ctx, api, b); doubt != "" {
		part.Doubts = append(part.Doubts, doubt)
	}
	order, signed, err := operator.Preview(b, peer, status)
	if err != nil {
		return nil, err
	}
	part.Signed = signed
	part.rank(b.Head(), order, status)
	return part, nil
}

// rank fills in the places of an order.
func (r *Ring) rank(m *bundle.Manifest, order *schedule.Order, s control.Status) {
	nodes := map[bundle.NodeID]control.NodeStatus{}
	for _, n := range s.Nodes {
		nodes[n.ID] = n
	}
	if order.Agents != nil {
		r.agents = order.Agents.Release
	}
	for _, class := range slices.Sorted(maps.Keys(order.Classes)) {
		cu, changed := m.Classes[class]
		c := ringClass(class, m.Version, order.Classes[class], nodes)
		c.Changed, c.rehearses = changed, r.Signed && cu.Rehearse != nil
		r.Classes = append(r.Classes, c)
	}
}

// InForce tells of the newest release with an order what an agent knows of it: without what
// only the bundle has, which is in its rules files.
func InForce(ctx context.Context, api *control.Client) (*Report, error) {
	status, err := api.Status(ctx, false)
	if err != nil {
		return nil, err
	}
	peer, err := api.Trust(ctx)
	if err != nil {
		return nil, err
	}
	if len(peer.Orders) == 0 {
		return nil, control.Refused(errors.New("there is no rollout order yet"), "`moult inject BUNDLE` signs the first")
	}
	release := slices.Max(slices.Collect(maps.Keys(peer.Orders)))
	order, err := schedule.ParseOrder(peer.Orders[release])
	if err != nil {
		return nil, fmt.Errorf("read the rollout order of release %d: %w", release, err)
	}
	data, ok := peer.Manifests[release]
	if !ok {
		return nil, control.Refused(fmt.Errorf("the agent has the rollout order of release %d, and not yet its manifest", release), "it comes from its peers: look again in a moment")
	}
	m, err := bundle.ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("read the manifest of release %d: %w", release, err)
	}
	r, err := report(nil, m, Report{Digest: bundle.Sum(data), Cluster: status.Cluster, Expires: status.Expires})
	if err != nil {
		return nil, err
	}
	ring := &Ring{Signed: true, Classes: []RingClass{}}
	ring.rank(m, order, status)
	r.Take(ring)
	return r, nil
}

// longCopy says that callers of the agent's node will be refused while its state is copied;
// "" where they will not, as far as can be told.
func longCopy(ctx context.Context, api *control.Client, b *archive.Bundle) string {
	info, err := api.Info(ctx)
	if err != nil {
		return ""
	}
	cu := b.Head().Classes[info.Class]
	if !cu.Copies() {
		return ""
	}
	s, err := api.StateCopy(ctx)
	if err != nil {
		return fmt.Sprintf("how long a copy of the state of %s takes could not be measured: %v", info.Name, err)
	}
	text := upgrade.Copies{Version: s.Version, Files: s.Files, Bytes: s.Bytes, Takes: time.Duration(s.Takes)}.Warning(1, time.Duration(cu.Schedule.HoldTimeout))
	if text == "" {
		return ""
	}
	return info.Name + ": " + text
}

func ringClass(class bundle.Class, release bundle.Version, c schedule.ClassOrder, nodes map[bundle.NodeID]control.NodeStatus) RingClass {
	r := RingClass{Class: class, Strategy: c.Strategy, Budget: c.MaxUnavailable, Nodes: []RingNode{}}
	for i, id := range c.Roster {
		n := nodes[id]
		if n.Name == "" {
			n.Name = id.Short() // known from an earlier order only
		}
		node := RingNode{
			Rank: i + 1, Name: n.Name, ID: id, Version: n.Version, Phase: n.Phase, Reachable: n.Reachable,
			since: n.Since, Canary: i < c.Canary, Wave: wave(c, i), Skipped: slices.Contains(c.Skipped, i),
		}
		if n.Rehearsed.Release == release {
			node.Rehearsed = n.Rehearsed
		}
		r.Nodes = append(r.Nodes, node)
	}
	r.Expected = expect(c, release, r.Nodes, time.Now())
	return r
}

// expect works out how long a class takes from now, by what its nodes' rehearsals took; nil
// where none tells, or where nobody knows when the next one goes.
func expect(c schedule.ClassOrder, release bundle.Version, nodes []RingNode, now time.Time) *Expected {
	var known []bundle.Duration
	for _, n := range nodes {
		if n.goes(release) && n.Rehearsed.Down > 0 {
			known = append(known, n.Rehearsed.Down)
		}
	}
	if len(known) == 0 || c.Strategy == bundle.StrategyManual || c.Strategy == bundle.StrategyRandom {
		return nil
	}
	slices.Sort(known)
	e := &Expected{Known: len(known), Down: known[len(known)/2]}
	last := map[bundle.NodeID]int{} // the places of their newest attempts
	for i, n := range nodes {
		last[n.ID] = i
	}
	var soaks bundle.Duration // what is left of the soaks of waves of which all have gone
	for begin, end := 0, 0; begin < len(nodes); begin = end {
		for end < len(nodes) && c.WaveOf(end) == c.WaveOf(begin) {
			end++
		}
		var free []bundle.Duration // when each place of the budget is free again
		for i := begin; i < end; i++ {
			n := nodes[i]
			if !n.goes(release) || last[n.ID] != i {
				continue
			}
			e.Nodes++
			if len(free) < max(1, c.MaxUnavailable) || c.Strategy == bundle.StrategyAtOnce {
				free = append(free, 0)
			}
			free[slices.Index(free, slices.Min(free))] += cmp.Or(n.Rehearsed.Down, e.Down)
		}
		if len(free) == 0 {
			for _, n := range nodes[begin:end] {
				if n.Phase == string(view.Settled) && n.Version >= release && !n.Skipped {
					soaks = max(soaks, c.SoakAt(begin)-max(0, bundle.Duration(now.Sub(n.since))))
				}
			}
			continue
		}
		if e.Takes == 0 {
			e.Takes = soaks
		}
		if e.Takes += slices.Max(free); end < len(nodes) {
			e.Takes += c.SoakAt(begin)
		}
	}
	return e
}

// goes reports whether a node is yet to go down for a release, as far as it can be told.
func (n RingNode) goes(release bundle.Version) bool {
	return !n.Skipped && n.Version < release && n.Rehearsed.Outcome != view.RehearsalFailed
}

// wave is the number of the wave that a place is in; 0 where there is none but a canary.
func wave(c schedule.ClassOrder, rank int) int {
	if len(c.Waves) == 0 {
		return 0
	}
	return c.WaveOf(rank)
}

package schedule

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// AgentsOrder is the operator's word that the agents of the nodes may be replaced by that of
// a release. To replace an agent takes no node down, so promise P4 does not rest on it: it
// bounds how many nodes a bad build is tried on.
//
// # The rule
//
// A node's agent may be replaced iff fewer than k other nodes are ranked before it that have
// not said that they need it no more (view.AgentBuild.Done >= Release), nor left the ring.
// Who says that it has failed has not said so, and counts for ever.
//
// The claim: at most k nodes have ever begun to replace their agent and have not said that
// they need it no more; not counting nodes that were skipped, or had left. So a build that
// fails everywhere was tried on k nodes, and the rest keep theirs.
//
// The proof: suppose that k+1 have, and let x be the one of them that is ranked last. Ranks
// only grow at the end, so when x began it ranked the k others before it. None of them had
// said Done, for that is durable before it is signed, and never taken back: so x counted
// them, and waited. Views may be as old as they like: who knows less waits longer, and a part
// of a ring that is cut off goes on only as far as it has the others' word. An order that joins
// two halves may rank anew, so it adds at most those who began by the half that it does not
// rank by.
//
// A node that fails goes on as it was, and the rollout of the nodes themselves does not wait
// for it. It tries again when the operator gives it another place, under its old rank: it
// was counted all the while.
type AgentsOrder struct {
	// Release is the one that brings the agent, Manifest its manifest: the order of a later
	// release that brings none takes them over.
	Release  bundle.Version `json:"release"`
	Manifest bundle.Digest  `json:"manifest"`
	// MaxUnavailable is the budget k.
	MaxUnavailable int `json:"max_unavailable"`
	// Roster and Skipped are as those of a class. The first place of a node that is not
	// skipped is its rank, and it may try as often as it has such places.
	Roster  []bundle.NodeID `json:"roster,omitempty"`
	Skipped []int           `json:"skipped,omitempty"`
}

// class is the part as that of a class, which it shares its places with.
func (a *AgentsOrder) class() ClassOrder {
	return ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: a.MaxUnavailable, Roster: a.Roster, Skipped: a.Skipped}
}

func (a *AgentsOrder) clone() *AgentsOrder {
	if a == nil {
		return nil
	}
	c := *a
	c.Roster, c.Skipped = slices.Clone(a.Roster), slices.Clone(a.Skipped)
	return &c
}

func (a *AgentsOrder) validate(o *Order, fail func(bad bool, field, format string, args ...any)) {
	if a == nil {
		return
	}
	fail(a.Release < 1 || a.Release > o.Release, "agents.release", "%d, want 1 to %d", a.Release, o.Release)
	fail(a.Manifest.IsZero() || a.Release == o.Release && a.Manifest != o.Manifest, "agents.manifest", "%s, want the digest of the manifest of release %d", a.Manifest.Short(), a.Release)
	c := a.class()
	c.validate(func(bad bool, f, format string, args ...any) { fail(bad, "agents."+f, format, args...) })
}

// agentsSuccessor reports why the agents' part of next may not take the place of that of old;
// "" if it may. Where an order joins two, ranks may differ.
func agentsSuccessor(old, next *AgentsOrder, joins bool) string {
	switch {
	case old == nil || next != nil && next.Release > old.Release:
		return ""
	case next == nil:
		return "agents: that they may be replaced is not taken back: pause the rollout, or abort it"
	case next.Release != old.Release || next.Manifest != old.Manifest:
		return fmt.Sprintf("agents: those of release %d (%s), want %d (%s)", next.Release, next.Manifest.Short(), old.Release, old.Manifest.Short())
	case !joins && (len(next.Roster) < len(old.Roster) || !slices.Equal(next.Roster[:len(old.Roster)], old.Roster)):
		return "agents: a roster only grows at its end"
	}
	if joins {
		return ""
	}
	if id, ok := badSkip(old.class(), next.class()); !ok {
		return fmt.Sprintf("agents: node %s: a skip covers every place that the node has, for good", id.Short())
	}
	return ""
}

// joinAgents puts the agents' parts of two orders together: the later release's, or of one
// the places of both, and the smaller budget.
func joinAgents(a, b *AgentsOrder) (*AgentsOrder, error) {
	switch {
	case a == nil || b != nil && b.Release > a.Release:
		return b.clone(), nil
	case b == nil || a.Release > b.Release:
		return a.clone(), nil
	case a.Manifest != b.Manifest:
		return nil, fmt.Errorf("they replace agents by those of different contents of release %d", a.Release)
	}
	c, err := joinClass(a.class(), b.class())
	return &AgentsOrder{Release: a.Release, Manifest: a.Manifest, MaxUnavailable: c.MaxUnavailable, Roster: c.Roster, Skipped: c.Skipped}, err
}

// WithAgents returns the order of a release, which nobody has signed yet, under which the
// agents of all its nodes that are not skipped may be replaced by the one that the release
// brings. m is its manifest; others are refused.
func (o *Order) WithAgents(m *bundle.Manifest) (*Order, error) {
	next := *o
	if err := next.addAgents(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	next.Format = next.lowestFormat()
	return &next, next.Validate()
}

// AllowAgents is WithAgents for an order that is signed: it returns its successor.
func (o *Order) AllowAgents(m *bundle.Manifest) (*Order, error) {
	return o.change(func(next *Order) error { return next.addAgents(m) })
}

func (o *Order) addAgents(m *bundle.Manifest) error {
	switch {
	case m.Version != o.Release || m.Agent == nil:
		return fmt.Errorf("release %d brings no agent", m.Version)
	case o.Agents != nil && o.Agents.Release == o.Release:
		return fmt.Errorf("the rollout of release %d replaces agents already", o.Release)
	}
	nodes := map[bundle.NodeID]bool{}
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[name]
		for _, m := range c.members() {
			if m.attempts > 0 {
				nodes[m.id] = true
			}
		}
	}
	k, err := budget(m.Agent.MaxUnavailable, len(nodes))
	if err != nil {
		return fmt.Errorf("rollout order of release %d: agents: %w", m.Version, err)
	}
	o.Agents = &AgentsOrder{Release: o.Release, Manifest: o.Manifest, MaxUnavailable: k, Roster: rank(o.Manifest, nodes)}
	return nil
}

// keepAgents takes over from the order before that agents are replaced, where the release
// brings no agent of its own: with the ranks that they had.
func (o *Order) keepAgents(m *bundle.Manifest, previous *Order) {
	if previous == nil || previous.Agents == nil || previous.State == StateAborted || m.Agent != nil {
		return
	}
	o.Agents = previous.Agents.clone()
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[name]
		for _, m := range c.members() {
			if m.attempts > 0 {
				o.Agents.takeIn(m.id)
			}
		}
	}
}

// takeIn gives a node a place that has none.
func (a *AgentsOrder) takeIn(id bundle.NodeID) {
	if a == nil {
		return
	}
	if c := a.class(); c.attempts(id) == 0 {
		a.Roster = c.withAnother(id)
	}
}

func (a *AgentsOrder) skip(id bundle.NodeID) {
	if a == nil {
		return
	}
	c := a.class()
	c.skip(id)
	a.Skipped = c.Skipped
}

// RetryAgent returns the successor in which a node whose agent was put back may try again;
// RetryBoth the one in which the node itself may, too, as by Retry.
func (o *Order) RetryAgent(id bundle.NodeID) (*Order, error) {
	return o.change(func(next *Order) error { return next.Agents.again(id) })
}

// RetryBoth is told of at RetryAgent.
func (o *Order) RetryBoth(class bundle.Class, id bundle.NodeID) (*Order, error) {
	return o.change(func(next *Order) error {
		next.retry(class, id)
		return next.Agents.again(id)
	})
}

func (a *AgentsOrder) again(id bundle.NodeID) error {
	if a == nil {
		return errors.New("the rollout replaces no agents")
	}
	c := a.class()
	a.Roster = c.withAnother(id)
	return nil
}

// AgentAttempts is how often a node may try to replace its agent under the order; 0: never.
func (o *Order) AgentAttempts(id bundle.NodeID) int {
	if o == nil || o.Agents == nil {
		return 0
	}
	c := o.Agents.class()
	return c.attempts(id)
}

// Codes of a reason that only DecideAgent gives. Append only.
const (
	CodeNoAgents     = "no-agents"     // the order replaces none
	CodeAgentsBudget = "agents-budget" // as many as allowed are being replaced, or have failed
	CodeAgentsBack   = "agents-back"   // the release is taken back
)

// DecideAgent says whether a node's agent may be replaced now by that of the release that
// in.Order names for it. It is about the ranks alone: whether the node needs it, and has tried
// it, its agent knows. Of in it goes by Self, Order, Lookup, Name, Reachable, Synced, Expired
// and Conflict.
func DecideAgent(in Input) Decision { return agentRule{}.decide(in) }

// agentRule has the parts that the claim rests on, apart, so that tests can break each.
type agentRule struct {
	over   func(release bundle.Version, rec view.Record, known bool) bool
	before func(other, own int) bool
	within func(others, k int) bool
}

func (ru agentRule) decide(in Input) Decision {
	o := in.Order
	d := &decision{Input: in, order: o}
	switch {
	case o == nil || o.Agents == nil:
		return wait(CodeNoAgents, "no rollout order replaces agents", "")
	case o.State == StateAborted:
		return wait(CodeAborted, "the rollout was aborted for good, and replaces no agents", "moult inject --agents BUNDLE")
	case o.Back():
		return wait(CodeAgentsBack, fmt.Sprintf("release %d is being taken back, and no agent is replaced meanwhile", o.Release), fmt.Sprintf("moult revert --undo %d", o.Release))
	case o.State == StatePaused:
		return wait(CodePaused, fmt.Sprintf("the rollout of release %d is paused", o.Release), fmt.Sprintf("moult resume --release %d", o.Release))
	case in.Conflict:
		return wait(CodeConflict, fmt.Sprintf("the publisher has signed two different releases %d: neither is started", o.Agents.Release), "moult inject BUNDLE")
	case in.Expired:
		return wait(CodeExpired, "the trust metadata have expired: nothing new is started", "moult trust refresh")
	case !in.Synced:
		return wait(CodeNotSynced, "it has not compared its view with a peer since it started", "moult join HOST:PORT")
	}
	a, members := o.Agents, o.Agents.ranked()
	own := slices.IndexFunc(members, func(m member) bool { return m.id == in.Self })
	retry := fmt.Sprintf("moult retry --release %d %s", o.Release, d.name(in.Self))
	if own < 0 {
		return wait(CodeNotInOrder, fmt.Sprintf("it has no place among those whose agents are replaced by that of release %d", a.Release), retry)
	}
	over, before, within := ru.over, ru.before, ru.within
	if over == nil {
		over = agentOver
	}
	if before == nil {
		before = func(other, own int) bool { return other < own }
	}
	if within == nil {
		within = func(others, k int) bool { return others < k }
	}
	var open, failed []bundle.NodeID
	for rank, m := range members {
		if rank == own || !before(rank, own) {
			continue
		}
		rec, known := in.Lookup(m.id)
		if over(a.Release, rec, known) {
			continue
		}
		open = append(open, m.id)
		if rec.Agent.Failed == a.Release {
			failed = append(failed, m.id)
		}
	}
	if within(len(open), a.MaxUnavailable) {
		return Decision{Go: true, Reason: Reason{Code: CodeGo, Nodes: open, Text: fmt.Sprintf("its agent may be replaced by that of release %d", a.Release)}}
	}
	r := Reason{Code: CodeAgentsBudget, Nodes: open, Text: fmt.Sprintf("its agent waits for %s: at most %d are replaced at once", d.names(open), a.MaxUnavailable), Command: d.skip(open)}
	if len(failed) > 0 {
		r.Text += fmt.Sprintf(", and that of release %d has failed on %s", a.Release, d.names(failed))
		r.Command = fmt.Sprintf("moult retry --release %d %s", o.Release, d.name(failed[0]))
	}
	return Decision{Reason: r}
}

// agentOver reports whether a node is waited for no more.
func agentOver(release bundle.Version, rec view.Record, known bool) bool {
	return known && (rec.Agent.Done >= release || rec.Left)
}

// ranked lists the nodes that are not skipped, by rank.
func (a *AgentsOrder) ranked() (all []member) {
	skipped, at := map[int]bool{}, map[bundle.NodeID]int{}
	for _, i := range a.Skipped {
		skipped[i] = true
	}
	for i, id := range a.Roster {
		if skipped[i] {
			continue
		}
		j, ok := at[id]
		if !ok {
			j = len(all)
			at[id] = j
			all = append(all, member{id: id})
		}
		all[j].attempts++
	}
	return all
}

// AgentsProgress sums up how far the agents are.
type AgentsProgress struct {
	// Release is the one whose agent they are replaced by.
	Release bundle.Version
	// Total is how many nodes count, Done how many need it no more, and Budget how many are
	// replaced at once.
	Total, Done, Budget int
	// Trying and Failed are those that say so, by rank.
	Trying, Failed []bundle.NodeID
}

// AgentsProgress sums up how far the agents are that an order replaces; false where it replaces none.
func (o *Order) AgentsProgress(lookup func(bundle.NodeID) (view.Record, bool)) (p AgentsProgress, ok bool) {
	if o == nil || o.Agents == nil {
		return p, false
	}
	p.Release, p.Budget = o.Agents.Release, o.Agents.MaxUnavailable
	for _, m := range o.Agents.ranked() {
		p.Total++
		rec, known := lookup(m.id)
		switch {
		case agentOver(p.Release, rec, known):
			p.Done++
		case rec.Agent.Failed == p.Release:
			p.Failed = append(p.Failed, m.id)
		case rec.Agent.Trying == p.Release:
			p.Trying = append(p.Trying, m.id)
		}
	}
	return p, true
}

// AgentMemory is what a node keeps, durable, of the agents that it was to have.
type AgentMemory struct {
	// Done is as in view.AgentBuild.
	Done bundle.Version `json:"done,omitempty"`
	// Tried is the release whose agent was tried last, and Attempts how many attempts the
	// order gave the node by then.
	Tried    bundle.Version `json:"tried,omitempty"`
	Attempts int            `json:"attempts,omitempty"`
}

// AgentKnown is what is known of the programs of one agent.
type AgentKnown struct {
	// Runs is the digest of the program that runs, OnTrial that it is on trial, and Fetched the
	// digest of the artifact that was fetched last.
	Runs, Fetched bundle.Digest
	OnTrial       bool
	Failed        map[bundle.Digest]string // why a program was put back here
}

// AgentInput is what a node knows of its agent, beside what DecideAgent asks.
type AgentInput struct {
	Input
	Memory AgentMemory
	// Agent is what the release of the order's agents brings, and Platform this node's.
	Agent    *bundle.AgentUpgrade
	Platform bundle.Platform
	Known    AgentKnown
	// Busy says that the node is between what its software serves, or begins to be.
	Busy bool
}

// AgentStep is what follows.
type AgentStep struct {
	Memory AgentMemory // to be made durable before anything of it is done or said
	Trying bundle.Version
	Failed bundle.Version
	// Fetch and Replace are what is to be done with Artifact, if anything is.
	Fetch, Replace bool
	Release        bundle.Version
	Artifact       bundle.AgentArtifact
	Deadline       bundle.Duration
	Reason         Reason // why nothing is, for people; the zero value where nothing needs it
}

// StepAgent says what a node does about its agent.
func StepAgent(in AgentInput) AgentStep {
	out := AgentStep{Memory: in.Memory}
	if in.Order == nil || in.Order.Agents == nil || in.Memory.Done >= in.Order.Agents.Release {
		return out
	}
	a := in.Order.Agents
	out.Release = a.Release
	art, ok := in.Agent.Artifact(in.Platform)
	out.Artifact = art
	if ok {
		out.Deadline = in.Agent.HealthyDeadline
	}
	if in.Known.OnTrial {
		out.Trying = a.Release
		return out
	}
	if !ok || art.Program == in.Known.Runs {
		out.Memory.Done = a.Release
		return out
	}
	attempts := in.Order.AgentAttempts(in.Self)
	if reason, failed := in.Known.Failed[art.Program]; failed && in.Memory.Tried == a.Release && in.Memory.Attempts >= attempts {
		out.Failed = a.Release
		out.Reason = Reason{
			Code: CodeUsedUp, Text: fmt.Sprintf("the agent of release %d was put back: %s", a.Release, reason),
			Command: fmt.Sprintf("moult retry --release %d %s", in.Order.Release, (&decision{Input: in.Input, order: in.Order}).name(in.Self)),
		}
		return out
	}
	d := DecideAgent(in.Input)
	out.Reason = d.Reason
	switch {
	case d.Go || d.Reason.Code == CodeAgentsBudget:
		out.Fetch = art.Digest != in.Known.Fetched
	default:
		return out
	}
	if !d.Go || out.Fetch || in.Busy {
		return out
	}
	out.Memory.Tried, out.Memory.Attempts = a.Release, attempts
	out.Replace, out.Trying, out.Reason = true, a.Release, Reason{}
	return out
}

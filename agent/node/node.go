package node

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"time"

	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/agent/schedule/expr"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Config is what does not change while an agent runs.
type Config struct {
	Self     bundle.NodeID
	Key      ed25519.PublicKey
	Name     string
	Class    bundle.Class
	Platform bundle.Platform
	Labels   map[string]string
	// FirstSync is how long a node that has never served waits for its peers
	// before it decides how to begin.
	FirstSync time.Duration
	Services  map[string]Service
	// OpenRing has everybody count, whoever is enrolled. Enrolment is what shows that
	// this node is, where a join token did it.
	OpenRing  bool
	Enrolment view.Enrolment
	Rules     Rules
	// Zone finds a time zone by its name, quickly.
	Zone       func(name string) (*time.Location, error)
	Memo       *view.Memo // see [view.New]
	Conditions *expr.Memo // may be nil
}

// Rules are the rules of packages schedule and membership. A test may break one to see that it
// matters; a nil field is the rule.
type Rules struct {
	Decide func(schedule.Input) schedule.Decision
	// MayRehearse is when a node rehearses.
	MayRehearse func(schedule.Input) schedule.Decision
	Successor   func(old, next *schedule.Order) error
	// MayFinalize is when it finalizes a release by the release's own word.
	MayFinalize func(schedule.FinalizeInput) schedule.Finalizing
	// Complete reports whether each node of an order has said that it is done.
	Complete func(*schedule.Order, func(bundle.NodeID) (view.Record, bool)) bool
	// Counts reports whether a node belongs to the cluster.
	Counts func(*membership.Membership, view.Record) bool
}

// Node decides for one node. It is not safe for concurrent use: one goroutine
// owns it.
type Node struct {
	cfg     Config
	now     time.Time // of the last event
	started time.Time
	rests   bool // nothing has happened since there was nothing to do

	machine *upgrade.Machine
	saved   upgrade.State   // what is durable: all that others are told
	answers []upgrade.Event // what ended while a state waited to be saved
	saving  saving
	unsaved Save // beside the machine's state
	// floor is as it will be once all is saved, floorSaved as it is durable.
	floor, floorSaved Floor

	meta     Metadata // in force
	evidence Metadata // a set that contradicts meta; zero for none
	// forked: another set has meta's number. Each half may have an order by which
	// others go down, and neither counts the other's nodes.
	forked bool
	// contents are those that are settled for this node, whatever the metadata name.
	contents map[bundle.Version]bundle.Chunk
	frozen   map[bundle.Version]bundle.Digest
	docs     documents

	belonging belonging
	view      *view.View
	dropped   []bundle.NodeID // forgotten, and to be told
	names     names
	doneAt    map[settlement]time.Time
	clocks    map[bundle.NodeID]clock // of those that are ahead of this one
	alive     map[bundle.NodeID]bool
	away      map[bundle.NodeID]time.Time // since when those that were alive are not; for people
	synced    bool
	// doubtful: what was written last may be lost, so nothing is said, and no release
	// chosen, before a peer has told what this node has said.
	doubtful bool

	copies    upgrade.Copies  // as measured last
	wait      schedule.Reason // why the node is waiting, as last decided
	notBefore time.Time       // no node goes down, or is retried, before this
	check     check
	staged    *upgrade.Staged // of a node that has never served, until it may go on

	software software
	health   health
	soaking  soaking
	facts    facts
	numbers  map[bundle.NodeID]numbers // of those that have said any
	gate     Gate                      // as last put in force

	conditions []*conditions   // of the orders that were asked last; none: releases have come or gone
	tally      *schedule.Tally // see tallyOf; nil: the node asks no schedule
	finalizing schedule.Finalizing
	// observed and observedSaved are how long the time has run until the newest release is
	// finalized by its own word: as known, and as it is durable.
	observed, observedSaved schedule.Observed
	// unreached is how many nodes of that order cannot be reached; ringed: the ring has said who
	// can, since a peer was heard from.
	unreached struct {
		of *schedule.Tally
		n  int
	}
	ringed     bool
	newest     *schedule.Tally // of the newest order; nil: there is none
	progressed map[bundle.Class]progressed

	placesOf   *schedule.Order // the order that placesKept is of
	placesKept schedule.Places
	skips      map[bundle.NodeID]bool // see skipped; nil: to be looked up anew

	routing   routing
	directory Directory // as told last
	sources   map[bundle.NodeID]source
	listed    bool // nothing that it comes from has changed since

	agents agents // what becomes of this agent

	addr     string // where the agent gossips
	services map[string]view.ServiceAddr
	own      view.Record // as last told
	number   uint64      // of that record
	left     bool        // the agent leaves the ring
	trial    bool        // a build of the agent is on trial
	apart    apart
	progress float64
	trouble  string // why the action under way does not get on
	noWay    string // why there is no way to the newest release
	noTurn   string // why the release that is taken back cannot be here
	full     string // why the disk refuses what is to be saved
	alarms   []alarm
	raised   []string // to be logged
}

// settlement names a node's settlement for a release.
type settlement struct {
	node    bundle.NodeID
	release bundle.Version
}

// New returns a node that goes on from what the disk says.
func New(cfg Config, m Memory, now time.Time) (*Node, error) {
	if cfg.Rules.Decide == nil {
		cfg.Rules.Decide = schedule.Decide
	}
	if cfg.Rules.MayRehearse == nil {
		cfg.Rules.MayRehearse = schedule.MayRehearse
	}
	if cfg.Rules.MayFinalize == nil {
		cfg.Rules.MayFinalize = schedule.MayFinalize
	}
	if cfg.Rules.Successor == nil {
		cfg.Rules.Successor = schedule.Successor
	}
	if cfg.Rules.Complete == nil {
		cfg.Rules.Complete = schedule.Reached
	}
	if cfg.Rules.Counts == nil {
		cfg.Rules.Counts = (*membership.Membership).Counts
	}
	machine, err := upgrade.New(m.state())
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, now: now, started: now,
		machine: machine, saved: machine.State(), floor: m.Floor, floorSaved: m.Floor,
		meta: m.Metadata, frozen: map[bundle.Version]bundle.Digest{}, docs: newDocuments(m.Bound),
		view: view.New(cfg.Memo), doneAt: map[settlement]time.Time{}, alive: map[bundle.NodeID]bool{cfg.Self: true}, away: map[bundle.NodeID]time.Time{},
		number: m.Floor.Numbers, numbers: map[bundle.NodeID]numbers{}, clocks: map[bundle.NodeID]clock{},
	}
	for _, v := range sorted(m.Frozen) {
		n.freezeOne(v, m.Frozen[v])
	}
	if doubt := m.doubt(); doubt != "" {
		n.doubtful, n.apart.ahead = true, regained // what it has signed, a peer that is heard first may not know
		n.alarm(causeDoubt, doubt+": the newest writes of this data folder are lost, or may be; the node keeps serving, but says and starts nothing until it has heard from a peer")
	}
	n.apart = apart{text: m.Apart, mute: m.Apart != "", aware: n.doubtful || m.State == nil, ahead: n.apart.ahead}
	n.alarm(causeApart, m.Apart)
	n.evidence = m.Evidence // also while the set that it contradicts is not in force again
	if _, err := n.view.Merge(m.Records...); err != nil {
		n.alarm(causeRecords, fmt.Sprintf("some stored records of nodes cannot be taken, and peers will bring them again: %v", err))
	}
	n.surpassPublished() // the records may know more than the rest of the disk
	if r, ok := n.view.Get(cfg.Self); ok && r.Health.Unwell() {
		// Nothing was heard of it since, which is no sign that it is well again.
		n.health = health{version: r.Running, ailed: r.Health.State, reason: r.Health.Reason}
	}
	if r, ok := n.view.Get(cfg.Self); ok && r.Running == n.saved.Running && len(r.Facts) > 0 {
		// It stays said until the software is asked again: others may be held by it.
		n.facts.said, n.facts.saidOf = r.Facts, r.Running
	}
	n.routing.answering, n.routing.saved = m.Answering, m.Answering
	n.routing.stale = true
	if n.observedSaved = m.Observed; !n.doubtful {
		n.observed = m.Observed
	}
	n.agents.memory, n.agents.saved = m.Agents, m.Agents
	n.contents = n.machine.State().Bound()
	n.sources = map[bundle.NodeID]source{}
	for r := range n.view.All() {
		n.noteSource(r)
		n.noteNumbers(r)
	}
	n.sortMembers()
	n.look()
	return n, nil
}

// Step tells the node what happened, and when.
func (n *Node) Step(now time.Time, e Event) {
	n.now, n.rests = now, false
	defer n.noteExpiry()
	switch e.(type) {
	case MetadataSeen, MetadataVerified, LookAgain, ManifestRead, OrderRead, MembersRead, DocumentMissing, SoftwareStarts:
		n.routing.stale = true
	}
	switch e := e.(type) {
	case Tick:
		n.offerAgain()
		n.agents.due = true
	case ActionEnded:
		n.actionEnded(e.Answer)
	case Trouble:
		n.trouble = e.Text
	case Progress:
		n.progress = e.Share
	case CheckEnded:
		n.checkEnded(e)
	case CopyMeasured:
		n.copies = e.Copies
		n.warnOfCopy()
	case MetadataSeen:
		n.freeze(e.Metadata)
	case MetadataVerified:
		n.take(e.Metadata, e.KeysReplaced)
	case LookAgain:
		n.look()
	case ManifestRead:
		n.docs.answered()
		n.manifestRead(e)
	case OrderRead:
		n.docs.answered()
		n.orderRead(e)
	case MembersRead:
		n.docs.answered()
		n.membersRead(e)
	case DocumentHere:
		n.docs.answered()
		n.membersHere(e.Document)
		n.docs.here(e.Document)
	case DocumentMissing:
		n.docs.answered()
		n.documentMissing(e.Document)
	case DocumentUnreadable:
		n.docs.answered()
		n.unreadable(e)
	case DocumentFetched:
		n.docs.read = append(n.docs.read, e.Document)
	case FetchEnded:
		n.docs.rounds.end(now, e.Got)
		n.membersMissed()
	case Synced:
		n.synced, n.doubtful = true, false
		n.alarm(causeDoubt, "")
	case Members:
		n.members(e.Alive)
	case Told:
		n.told(e.Record)
	case Addresses:
		n.addr, n.services = e.Addr, e.Services
	case SoftwareStarts:
		n.software.speaks = e.Version
	case Called:
		n.called(e.By)
	case SoftwareUp:
		n.software.version, n.software.ready = e.Version, true
		n.passes(e.Version)
	case SoftwareDown:
		n.software.ready = n.software.ready && n.software.version != e.Version
		if e.Ended {
			n.ails(e.Version, view.HealthRestarting, e.Reason)
		} else {
			n.ails(e.Version, view.HealthNotReady, e.Reason)
		}
	case SoftwareFails:
		n.ails(e.Version, view.HealthFailing, e.Reason)
	case SoftwarePasses:
		n.passes(e.Version)
	case SoftwareStops:
		n.software.ready, n.software.admitted = false, false
		n.facts.sampled = nil
		n.health = health{}
	case FactsSampled:
		n.factsSampled(e)
	case LetIn:
		n.software.admitted = true
	case AgentKnown:
		n.agentKnown(e)
	case Leave:
		n.left = true
	case AgentTrial:
		n.trial = !e.Over
	case Twin:
		n.part(fmt.Sprintf("at %s an agent has this node's key, too", e.Addr))
	case Alarm:
		n.alarm(e.Cause, e.Text)
	}
}

// software is what callers may reach.
type software struct {
	version         bundle.Version
	ready, admitted bool
	speaks          bundle.Version // that runs, or ran last
}

// members takes in who is alive.
func (n *Node) members(alive map[bundle.NodeID]bool) {
	n.ringed = n.ringed || n.synced
	alive = maps.Clone(alive)
	if alive == nil {
		alive = map[bundle.NodeID]bool{}
	}
	alive[n.cfg.Self] = true
	if maps.Equal(alive, n.alive) {
		return
	}
	for id := range n.alive {
		if !alive[id] {
			n.away[id] = n.now
		}
	}
	maps.DeleteFunc(n.away, func(id bundle.NodeID, _ time.Time) bool { _, ok := n.view.Get(id); return !ok || alive[id] })
	n.alive, n.listed, n.routing.stale, n.unreached.of = alive, false, true, nil
}

// decide tells the machine what follows from what is known. It stops as soon as a
// state waits to be saved: Advance makes it go on.
func (n *Node) decide() {
	n.noteHealth()
	n.noteFacts()
	n.noteProgress()
	n.observe()
	for _, f := range []func(){n.aim, n.retry, n.begin, n.goOn, n.soak, n.schedule, n.finalize, n.replaceAgent} {
		if n.waits() {
			return
		}
		f()
	}
}

// State is the machine's state, which may not be durable yet.
func (n *Node) State() upgrade.State { return n.machine.State() }

// Saved is the machine's state as it is durable.
func (n *Node) Saved() upgrade.State { return n.saved }

// View is what is known of all nodes. The driver reads it, and changes it by Merge
// and Told only.
func (n *Node) View() *view.View { return n.view }

// Alive reports whether the ring takes a node for alive.
func (n *Node) Alive(id bundle.NodeID) bool { return n.alive[id] }

// Away is since when the ring takes a node for dead; zero where it does not, or never
// took it for alive since this agent began.
func (n *Node) Away(id bundle.NodeID) time.Time { return n.away[id] }

// Self is the node's identity.
func (n *Node) Self() bundle.NodeID { return n.cfg.Self }

// Number is that of the newest record of this node.
func (n *Node) Number() uint64 { return n.number }

package sim

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"moult/agent/membership"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// plants have one fault each, and the check that finds it.
var plants = []struct {
	name  string
	check string
	p     Plant
}{
	{"rank off by one", "P4", Plant{Rules: node.Rules{Decide: rankOffByOne}}},
	{"a node of which nothing is known counts as done", "P9", Plant{Rules: node.Rules{Decide: absenceIsEvidence}}},
	{"nodes that may be down under an earlier order do not count", "P4", Plant{Rules: node.Rules{Decide: ignorePrevious}}},
	{"what a node works towards counts as what it has reached", "P4", Plant{Rules: node.Rules{Decide: targetIsVersion}}},
	{"records are published before they are durable", "P7", Plant{Early: true}},
	{"actions start before the state is durable", "P7", Plant{CarryOut: []Stage{StageGate, StageAct, StageSave, StageTell}}},
	{"a crash forgets the ended attempts", "P7", Plant{Memory: forgetEnded}},
	{"a crash forgets the promise to obey only later orders", "P7", Plant{Memory: forgetObeys}},
	{"older metadata take the place of newer", "P2", Plant{
		Event: alwaysNewer, Rules: node.Rules{Successor: func(_, _ *schedule.Order) error { return nil }},
	}},
	{"it decides before its first exchange", "P9", Plant{Event: syncedAtOnce}},
	{"a view takes only the first record of several", "P8", Plant{Merge: func(rs []view.Signed) []view.Signed { return rs[:1] }}},
	{"the slot of a failed attempt is used again", "P6", Plant{Stale: func([]bundle.Version) []bundle.Version { return nil }}},
	{"a transform works on the old slot", "P5", Plant{Into: func(x upgrade.Transform) bundle.Version { return x.From }}},
	{"a slot gets its name before its files are synced", "P5", Plant{Publish: []Stage{StageRename, StageSyncFolder, StageSyncTree}}},
	{"it goes back after callers were admitted", "P6", Plant{GiveUp: true}},
	{"a rollout has ended where nobody is known who is behind", CheckAnswered, Plant{Rules: node.Rules{Complete: endedAlways}}},
	{"metadata that have expired permit", "P1", Plant{Rules: node.Rules{Decide: neverExpired}}},
	{"a second signing counts for nothing", "P3", Plant{Event: keysReplaced}},
	{"an attempt follows what is signed since", "P3", Plant{ByNumber: true}},
	{"a journal counts for more than the live slot", "P6", Plant{Memory: journalAlone}},
	{"what ran last is no evidence of which slot is live", "P6", Plant{Memory: nothingRan}},
	{"a soak is a timer", CheckSoak, Plant{Rules: node.Rules{Decide: soakIsTimer}}},
	{"a node hears nothing of its software's end in the soak", CheckSoak, Plant{Event: deafToSoftware}},
	{"a wave goes on over nodes that are not well", CheckUnwell, Plant{Rules: node.Rules{Decide: blindToHealth}}},
	{"what is forgotten stays", "P8", Plant{Event: forgetsNothing}},
	{"a node that is forgotten and there does not speak again", CheckLiveness, Plant{Event: forgetsOthersOnly}},
	{"a release is withdrawn before all have said that they are not there", CheckWithdrawn, Plant{Unproven: true}},
	{"nodes hear nothing of what is withdrawn", CheckLiveness, Plant{Event: withdrawsNothing}},
	{"two orders that contradict each other count for nothing", "P4", Plant{Event: unforked}},
	{"who is not enrolled counts", CheckStrangers, Plant{Rules: node.Rules{Counts: everybodyBelongs}}},
	{"windows count for nothing", CheckWaits, Plant{Rules: node.Rules{Decide: windowless}}},
	{"nobody settles first", CheckWaits, Plant{Rules: node.Rules{Decide: firstForNobody}}},
	{"who has left counts as done", "P4", Plant{Rules: node.Rules{Decide: leftIsDone}}},
	{"a canary that has left in its soak is waited for", CheckLiveness, Plant{Rules: node.Rules{Decide: deafToLeaving}}},
	{"a failed rehearsal counts as good", "P13", Plant{Event: deafToRehearsal}},
	{"a rehearse block is overlooked", "P13", Plant{Event: neverRehearses}},
	{"failed rehearsals do not count as failures", "P13", Plant{Rules: node.Rules{Decide: unfitAreFine}}},
	{"nobody waits for what others rehearse", "P13", Plant{Rules: node.Rules{Decide: rehearsesAlone}}},
	{"who has nothing to rehearse is waited for", CheckLiveness, Plant{Rules: node.Rules{Decide: awaitsAllRehearsals}}},
	{"a node that rehearses counts as down", CheckRehearsing, Plant{Rules: node.Rules{Decide: rehearsingIsDown}}},
	{"a rehearsal works on the live state", "P5", Plant{OnLive: true}},
	{"who shares a zone is overlooked", "P4", Plant{Rules: node.Rules{Decide: zoneless}}},
	{"who may share a zone is overlooked", "P4", Plant{Rules: node.Rules{Decide: unknownIsElsewhere}}},
	{"the waves but the first are none", CheckWaves, Plant{Rules: node.Rules{Decide: oneWave}}},
	{"all rehearse at once", CheckTurn, Plant{Rules: node.Rules{MayRehearse: allAtOnce}}},
	{"a paused rollout is rehearsed", CheckTurn, Plant{Rules: node.Rules{MayRehearse: deafToPause}}},
	{"a rehearsal that cannot be made is tried for ever", CheckLiveness, Plant{Event: triesForEver}},
	{"conditions count for nothing", CheckConditions, Plant{Rules: node.Rules{Decide: unconditioned}}},
	{"nodes are held by nothing", CheckConditions, Plant{Rules: node.Rules{Decide: heldByNothing}}},
	{"what nobody has said is no reason to wait", CheckConditions, Plant{Rules: node.Rules{Decide: missingIsYes}}},
	{"facts stay as they were said first", CheckLiveness, Plant{Event: firstFactsOnly}},
	{"who has not promised to go by a turn only counts as up", "P4", Plant{Rules: node.Rules{Decide: turnsAlone}}},
	{"who has settled counts as taken back", "P4", Plant{Rules: node.Rules{Decide: settledIsBack}}},
	{"what the old form cannot hold is not kept", "P14", Plant{Leaves: true}},
	{"a crash forgets how far a turn is", "P7", Plant{Memory: forgetTurn}},
	{"a release is taken back that is finalized", "P14", Plant{TurnsFinal: true, Rules: node.Rules{Successor: func(_, _ *schedule.Order) error { return nil }}}},
	{"a release is finalized by its own word before all have said that they are at it", "P14", Plant{Rules: node.Rules{MayFinalize: finalWithout("not said that they are at it")}}},
	{"a release is finalized by its own word before its time", "P14", Plant{Rules: node.Rules{MayFinalize: finalAtOnce}}},
	{"a release is finalized by its own word though nodes are not well", "P14", Plant{Rules: node.Rules{MayFinalize: finalWithout("not well")}}},
	{"a release is finalized by its own word though nodes cannot be reached", "P14", Plant{Rules: node.Rules{MayFinalize: finalUnreached}}},
	{"a release is finalized by its own word, and time counts in which no agent ran", "P14", Plant{Rules: node.Rules{MayFinalize: finalAsleep}}},
	{"a crash forgets that a release is final", "P7", Plant{Memory: forgetFinal}},
	{"newer metadata are never taken", CheckLiveness, Plant{Event: neverNewer}},
}

// foundBy has a seed that finds a plant, where the first does not.
var foundBy = map[string]uint64{
	"rank off by one": 2,
	"nodes that may be down under an earlier order do not count":                      91,
	"what a node works towards counts as what it has reached":                         1,
	"a slot gets its name before its files are synced":                                9,
	"a rollout has ended where nobody is known who is behind":                         39,
	"metadata that have expired permit":                                               45,
	"a second signing counts for nothing":                                             22,
	"an attempt follows what is signed since":                                         126,
	"a journal counts for more than the live slot":                                    81,
	"what ran last is no evidence of which slot is live":                              82,
	"a wave goes on over nodes that are not well":                                     1,
	"what is forgotten stays":                                                         7,
	"who has left counts as done":                                                     67,
	"a canary that has left in its soak is waited for":                                163,
	"a node that is forgotten and there does not speak again":                         63,
	"a release is withdrawn before all have said that they are not there":             22,
	"nodes hear nothing of what is withdrawn":                                         32,
	"who is not enrolled counts":                                                      11,
	"two orders that contradict each other count for nothing":                         31,
	"a failed rehearsal counts as good":                                               2,
	"failed rehearsals do not count as failures":                                      47,
	"all rehearse at once":                                                            8,
	"a paused rollout is rehearsed":                                                   2,
	"a rehearsal that cannot be made is tried for ever":                               167,
	"a rehearse block is overlooked":                                                  2,
	"nobody waits for what others rehearse":                                           2,
	"who has nothing to rehearse is waited for":                                       17,
	"a node that rehearses counts as down":                                            2,
	"a rehearsal works on the live state":                                             2,
	"who shares a zone is overlooked":                                                 6,
	"who may share a zone is overlooked":                                              114,
	"the waves but the first are none":                                                105,
	"windows count for nothing":                                                       21,
	"who has settled counts as taken back":                                            34,
	"who has not promised to go by a turn only counts as up":                          1846,
	"what the old form cannot hold is not kept":                                       30,
	"a crash forgets how far a turn is":                                               10,
	"a release is taken back that is finalized":                                       10,
	"nobody settles first":                                                            5,
	"a release is finalized by its own word before all have said that they are at it": 14,
	"a release is finalized by its own word before its time":                          14,
	"a release is finalized by its own word though nodes are not well":                50,
	"a release is finalized by its own word though nodes cannot be reached":           154,
	"a release is finalized by its own word, and time counts in which no agent ran":   106,
	"a crash forgets that a release is final":                                         14,
	"conditions count for nothing":                                                    3,
	"nodes are held by nothing":                                                       3,
	"what nobody has said is no reason to wait":                                       28,
	"facts stay as they were said first":                                              3,
}

// withinSeeds is how many seeds a planted bug may survive.
const withinSeeds = 200

// TestPlanted shows that each check finds what it is there to find.
func TestPlanted(t *testing.T) {
	if testing.Short() {
		t.Skip("many simulations; each has one goroutine, so a race detector has nothing to see")
	}
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			if r := Run(Config{Seed: foundBy[p.name], Plant: p.p, Only: p.check}); r.Violation != nil {
				t.Logf("seed %d: %v", r.Seed, r.Violation)
				return
			}
			// The runs of seeds change with whatever is decided.
			for r := range runAll(withinSeeds, p.p, p.check) {
				if r.Violation == nil {
					continue
				}
				t.Logf("seed %d: %v", r.Seed, r.Violation)
				return
			}
			t.Fatalf("none of %d seeds found it", withinSeeds)
		})
	}
}

// altered returns in with a changed class order.
func altered(in schedule.Input, f func(*schedule.Order, *schedule.ClassOrder)) schedule.Input {
	if in.Order == nil {
		return in
	}
	o := *in.Order
	o.Classes = maps.Clone(o.Classes)
	c := o.Classes[in.Class]
	c.Roster = slices.Clone(c.Roster)
	f(&o, &c)
	o.Classes[in.Class] = c
	in.Order = &o
	return in
}

// rankOffByOne takes the node for one that is one rank earlier than it is.
func rankOffByOne(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(_ *schedule.Order, c *schedule.ClassOrder) {
		if i := slices.Index(c.Roster, in.Self); i > 0 && len(c.Skipped) == 0 && len(c.Started) == 0 {
			c.Roster[i-1], c.Roster[i] = c.Roster[i], c.Roster[i-1]
		}
	}))
}

func windowless(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(_ *schedule.Order, c *schedule.ClassOrder) { c.Windows = nil }))
}

func zoneless(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(_ *schedule.Order, c *schedule.ClassOrder) { c.Spread = nil }))
}

// unknownIsElsewhere takes those whose zone nobody knows for a zone of their own.
func unknownIsElsewhere(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(_ *schedule.Order, c *schedule.ClassOrder) {
		if c.Spread == nil {
			return
		}
		s := *c.Spread
		s.Values, s.Of = append(slices.Clone(s.Values), "~"), slices.Clone(s.Of)
		for i, of := range s.Of {
			if of == 0 {
				s.Of[i] = len(s.Values)
			}
		}
		c.Spread = &s
	}))
}

func oneWave(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(_ *schedule.Order, c *schedule.ClassOrder) { c.Waves = c.Waves[:min(1, len(c.Waves))] }))
}

func unconditioned(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(_ *schedule.Order, c *schedule.ClassOrder) { c.When, c.HoldIf = "", "" }))
}

func heldByNothing(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(_ *schedule.Order, c *schedule.ClassOrder) { c.HoldIf = "" }))
}

func missingIsYes(in schedule.Input) schedule.Decision {
	ask, when := in.Ask, ""
	if in.Order != nil {
		when = in.Order.Classes[in.Class].When
	}
	in.Ask = func(class bundle.Class, self bundle.NodeID, condition string) schedule.Said {
		said := ask(class, self, condition)
		if said.Answer == schedule.AnswerNone && condition == when {
			said.Answer = schedule.AnswerYes
		}
		return said
	}
	return schedule.Decide(in)
}

// firstFactsOnly has a node hear of each software's facts once.
func firstFactsOnly(n *node.Node, e node.Event) node.Event {
	r, _ := n.View().Get(n.Self())
	if _, facts := e.(node.FactsSampled); facts && len(r.Facts) > 0 {
		return nil
	}
	return e
}

func firstForNobody(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(_ *schedule.Order, c *schedule.ClassOrder) { c.After = nil }))
}

// deafToRehearsal has a rehearsal that failed go well.
func deafToRehearsal(n *node.Node, e node.Event) node.Event {
	if x, ok := e.(node.ActionEnded); ok && n.State().Phase == upgrade.Rehearsing {
		if f, failed := x.Answer.(upgrade.Failed); failed && !f.Later {
			return node.ActionEnded{Answer: upgrade.Rehearsed{Step: f.Step}}
		}
	}
	return e
}

// neverRehearses takes the rehearse blocks out of the manifests that arrive.
func neverRehearses(_ *node.Node, e node.Event) node.Event {
	if x, ok := e.(node.ManifestRead); ok {
		m := *x.Manifest
		m.Classes = maps.Clone(m.Classes)
		for class, cu := range m.Classes {
			cu.Rehearse = nil
			m.Classes[class] = cu
		}
		x.Manifest = &m
		return x
	}
	return e
}

// unfitAreFine does not see that attempts have ended in their rehearsal.
func unfitAreFine(in schedule.Input) schedule.Decision {
	lookup := in.Lookup
	in.Tally = nil // it is of what lookup says
	in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
		r, ok := lookup(id)
		if id != in.Self && r.Rehearsed.Outcome == view.RehearsalFailed {
			r.Ended = view.Ended{}
		}
		return r, ok
	}
	failing := schedule.Decide(in)
	if in.Lookup = lookup; failing.Go || schedule.Decide(in).Reason.Code == schedule.CodeStopped {
		return failing
	}
	return schedule.Decide(in)
}

// rehearsesAlone asks nobody what came of their rehearsals.
func rehearsesAlone(in schedule.Input) schedule.Decision {
	in.Reachable = nil
	return schedule.Decide(in)
}

// awaitsAllRehearsals does not see that others have got past what they had to rehearse.
func awaitsAllRehearsals(in schedule.Input) schedule.Decision {
	return withRecords(in, func(r view.Record) view.Record {
		if r.Node != in.Self {
			r.Target = 0
		}
		return r
	})
}

// allAtOnce has nodes rehearse whoever else does.
func allAtOnce(in schedule.Input) schedule.Decision {
	in.Reachable = nil
	return schedule.MayRehearse(in)
}

// deafToPause has them rehearse though the operator has paused the rollout.
func deafToPause(in schedule.Input) schedule.Decision {
	return schedule.MayRehearse(altered(in, func(o *schedule.Order, _ *schedule.ClassOrder) {
		if o.State == schedule.StatePaused {
			o.State = schedule.StateRunning
		}
	}))
}

// triesForEver counts nothing that cannot be made.
func triesForEver(_ *node.Node, e node.Event) node.Event {
	if x, ok := e.(node.ActionEnded); ok {
		if f, failed := x.Answer.(upgrade.Failed); failed && f.Unable {
			f.Unable, f.Later = false, true
			return node.ActionEnded{Answer: f}
		}
	}
	return e
}

// rehearsingIsDown waits for whoever of the class rehearses.
func rehearsingIsDown(in schedule.Input) schedule.Decision {
	d := schedule.Decide(in)
	if d.Go {
		for _, id := range in.Order.Classes[in.Class].Roster {
			if r, ok := in.Lookup(id); ok && id != in.Self && r.Phase == view.Rehearsing {
				return schedule.Decision{Reason: schedule.Reason{Code: schedule.CodeBudget, Text: r.Name + " rehearses"}}
			}
		}
	}
	return d
}

// withdrawsNothing takes what is withdrawn out of the orders that arrive.
func withdrawsNothing(_ *node.Node, e node.Event) node.Event {
	if x, ok := e.(node.OrderRead); ok && len(x.Order.Withdrawn) > 0 {
		o := *x.Order
		o.Withdrawn = nil
		x.Order = &o
		return x
	}
	return e
}

// unforked hears of no other set with the number of the one in force.
func unforked(n *node.Node, e node.Event) node.Event {
	if x, ok := e.(node.MetadataVerified); ok && x.Timestamp == n.Metadata().Timestamp {
		return nil
	}
	return e
}

func everybodyBelongs(*membership.Membership, view.Record) bool { return true }

func journalAlone(m node.Memory) node.Memory {
	if m.State != nil {
		m.Slot = min(m.Slot, m.State.Running)
	}
	return m
}

// nothingRan goes by the journal alone where nothing names the live slot.
func nothingRan(m node.Memory) node.Memory {
	if m.Slot == 0 && m.State != nil {
		m.Ran = m.State.Running
	}
	return m
}

func neverExpired(in schedule.Input) schedule.Decision {
	in.Expired = false
	return schedule.Decide(in)
}

func keysReplaced(_ *node.Node, e node.Event) node.Event {
	switch e := e.(type) {
	case node.MetadataSeen:
		return nil
	case node.MetadataVerified:
		e.KeysReplaced = true
		return e
	}
	return e
}

func endedAlways(*schedule.Order, func(bundle.NodeID) (view.Record, bool)) bool { return true }

func ignorePrevious(in schedule.Input) schedule.Decision {
	return schedule.Decide(altered(in, func(o *schedule.Order, _ *schedule.ClassOrder) { o.Previous = 0 }))
}

func absenceIsEvidence(in schedule.Input) schedule.Decision {
	lookup := in.Lookup
	in.Tally = nil // it is of what lookup says
	in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
		r, ok := lookup(id)
		if !ok && in.Order != nil {
			return view.Record{Node: id, Version: in.Order.Release}, true
		}
		return r, ok
	}
	return schedule.Decide(in)
}

func targetIsVersion(in schedule.Input) schedule.Decision {
	return withRecords(in, func(r view.Record) view.Record {
		if r.Node != in.Self {
			r.Version = max(r.Version, r.Target)
		}
		return r
	})
}

// soakIsTimer takes every canary for one that an older moult looks after.
func soakIsTimer(in schedule.Input) schedule.Decision {
	return withHealth(in, func(view.Health) view.Health { return view.Health{} })
}

// blindToHealth goes on while what has settled fails.
func blindToHealth(in schedule.Input) schedule.Decision {
	return withHealth(in, func(h view.Health) view.Health {
		if h.Unwell() {
			h.State = view.HealthWell
		}
		return h
	})
}

// leftIsDone takes a node that has left for one that will not be down any more.
func leftIsDone(in schedule.Input) schedule.Decision {
	return withRecords(in, func(r view.Record) view.Record {
		if r.Left && in.Order != nil && r.Node != in.Self {
			r.Version = max(r.Version, in.Order.Release)
		}
		return r
	})
}

func deafToLeaving(in schedule.Input) schedule.Decision {
	return withRecords(in, func(r view.Record) view.Record { r.Left = false; return r })
}

func withHealth(in schedule.Input, f func(view.Health) view.Health) schedule.Decision {
	return withRecords(in, func(r view.Record) view.Record { r.Health = f(r.Health); return r })
}

func withRecords(in schedule.Input, f func(view.Record) view.Record) schedule.Decision {
	lookup := in.Lookup
	in.Tally = nil // it is of what lookup says
	in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
		r, ok := lookup(id)
		return f(r), ok
	}
	return schedule.Decide(in)
}

func deafToSoftware(_ *node.Node, e node.Event) node.Event {
	switch e.(type) {
	case node.SoftwareDown, node.SoftwareFails:
		return nil
	}
	return e
}

func forgetEnded(m node.Memory) node.Memory {
	if m.State != nil {
		m.State.EndedRelease, m.State.EndedCount = 0, 0
	}
	return m
}

func forgetObeys(m node.Memory) node.Memory {
	if m.State != nil {
		m.State.Obeys = 0
	}
	return m
}

// finalWithout gives it up to look at something: the time counts whatever the rule says of it.
func finalWithout(something string) func(schedule.FinalizeInput) schedule.Finalizing {
	return func(in schedule.FinalizeInput) schedule.Finalizing {
		f := schedule.MayFinalize(in)
		if !strings.Contains(f.Reason, something) {
			return f
		}
		o := in.Order
		f = schedule.Finalizing{Observed: schedule.Observed{Release: o.Release, Serial: o.Serial, Seen: in.Now}, Counts: true}
		if before := in.Observed; before.Release == o.Release && before.Serial == o.Serial {
			f.Observed.For = before.For
		}
		if !in.Last.IsZero() {
			f.Observed.For += bundle.Duration(in.Now.Sub(in.Last))
		}
		f.Now = f.Observed.For >= o.FinalizeAfter
		return f
	}
}

// finalUnreached believes what was said last by whoever cannot be reached.
func finalUnreached(in schedule.FinalizeInput) schedule.Finalizing {
	in.Unreachable = 0
	return schedule.MayFinalize(in)
}

// finalAsleep counts the time in which no agent ran.
func finalAsleep(in schedule.FinalizeInput) schedule.Finalizing {
	if in.Last.IsZero() {
		in.Last = in.Observed.Seen
	}
	return schedule.MayFinalize(in)
}

// finalAtOnce does not wait.
func finalAtOnce(in schedule.FinalizeInput) schedule.Finalizing {
	f := schedule.MayFinalize(in)
	f.Now = f.Counts
	return f
}

func forgetFinal(m node.Memory) node.Memory {
	if m.State != nil {
		m.State.Final, m.State.Finalized = 0, 0
	}
	return m
}

func forgetTurn(m node.Memory) node.Memory {
	if m.State != nil {
		m.State.Turned = view.Turned{}
	}
	return m
}

// turnsAlone counts those of lower rank only.
func turnsAlone(in schedule.Input) schedule.Decision {
	return withRecords(in, func(r view.Record) view.Record {
		if o := in.Order; o != nil && o.Turn > 0 && r.Turned.Before(o.Release, o.Turn) {
			r.Turned = view.Turned{Release: o.Release, Turn: o.Turn}
		}
		return r
	})
}

// settledIsBack takes the version for what a turn leads to.
func settledIsBack(in schedule.Input) schedule.Decision {
	return withRecords(in, func(r view.Record) view.Record {
		if o := in.Order; o != nil && o.Turn > 0 && r.Version >= o.Release && r.Node != in.Self {
			r.Turned = view.Turned{Release: o.Release, Turn: o.Turn, Done: true}
		}
		return r
	})
}

// alwaysNewer gives all metadata a greater number than those in force have.
func alwaysNewer(n *node.Node, e node.Event) node.Event {
	if x, ok := e.(node.MetadataVerified); ok && x.Digest != n.Metadata().Digest {
		x.Timestamp = n.Metadata().Timestamp + 1
		return x
	}
	return e
}

func neverNewer(n *node.Node, e node.Event) node.Event {
	if _, ok := e.(node.MetadataVerified); ok && n.Metadata().Timestamp > 0 {
		return nil
	}
	return e
}

func syncedAtOnce(_ *node.Node, e node.Event) node.Event {
	if _, ok := e.(node.Tick); ok {
		return node.Synced{}
	}
	return e
}

func forgetsNothing(n *node.Node, e node.Event) node.Event {
	return forgetting(e, func(schedule.Forgotten) bool { return false })
}

func forgetsOthersOnly(n *node.Node, e node.Event) node.Event {
	return forgetting(e, func(f schedule.Forgotten) bool { return f.Node != n.Self() })
}

// forgetting has an order that arrives forget some of its nodes only.
func forgetting(e node.Event, some func(schedule.Forgotten) bool) node.Event {
	x, ok := e.(node.OrderRead)
	if !ok {
		return e
	}
	o := *x.Order
	o.Forgotten = slices.DeleteFunc(slices.Clone(o.Forgotten), func(f schedule.Forgotten) bool { return !some(f) })
	x.Order = &o
	return x
}

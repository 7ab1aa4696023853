package sim

import (
	"maps"
	"slices"
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
	{"newer metadata are never taken", CheckLiveness, Plant{Event: neverNewer}},
}

// foundBy has a seed that finds a plant, where the first does not.
var foundBy = map[string]uint64{
	"rank off by one": 1,
	"nodes that may be down under an earlier order do not count":          48,
	"what a node works towards counts as what it has reached":             1,
	"a slot gets its name before its files are synced":                    9,
	"it goes back after callers were admitted":                            5,
	"a rollout has ended where nobody is known who is behind":             80,
	"metadata that have expired permit":                                   68,
	"a second signing counts for nothing":                                 5,
	"an attempt follows what is signed since":                             5,
	"a journal counts for more than the live slot":                        81,
	"what ran last is no evidence of which slot is live":                  1,
	"a wave goes on over nodes that are not well":                         1,
	"what is forgotten stays":                                             7,
	"a node that is forgotten and there does not speak again":             83,
	"a release is withdrawn before all have said that they are not there": 7,
	"nodes hear nothing of what is withdrawn":                             32,
	"who is not enrolled counts":                                          18,
	"two orders that contradict each other count for nothing":             91,
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
	lookup := in.Lookup
	in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
		r, ok := lookup(id)
		if id != in.Self {
			r.Version = max(r.Version, r.Target)
		}
		return r, ok
	}
	return schedule.Decide(in)
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

func withHealth(in schedule.Input, f func(view.Health) view.Health) schedule.Decision {
	lookup := in.Lookup
	in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
		r, ok := lookup(id)
		r.Health = f(r.Health)
		return r, ok
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

package objects

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/simlayer/host"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// placement says where each object answers.
type placement struct {
	// processes has all of them, as each runs in a process of its own or in the
	// object host; local those that answer in the agent instead.
	processes map[bundle.Version]host.Object
	local     map[bundle.Version]so.Object
	// observing has those that are told of the node's calls, also while they are
	// away.
	observing map[bundle.Version]observing
	whole     bool // nothing is missing
	soon      bool // what is missing is on this disk, and only to be checked
	ended     bool // objects whose state a transform reads are left out
}

// place decides where each object answers: those that are bounded in time and
// memory by their form in the agent itself, the others in processes of their own,
// which then make all further steps. Where something that one needs has not
// arrived, callers from there on are not answered yet.
func (o *Objects) place() {
	p := placement{processes: map[bundle.Version]host.Object{}, local: map[bundle.Version]so.Object{}, observing: map[bundle.Version]observing{}, whole: true, ended: o.mustEnd(o.node)}
	for _, newer := range []bool{false, true} {
		for _, v := range outward(o.all, o.node.Native, newer) {
			local, process, ok := o.placeOne(o.all[v])
			if !ok {
				p.whole, p.soon = false, p.soon || o.beingChecked(o.all[v])
				break
			}
			p.processes[v] = process
			if w, observes := o.observing(o.all[v]); observes {
				p.observing[v] = w
			}
			if local != nil {
				p.local[v] = local
			}
		}
	}
	o.placed = p
}

// hosted returns what is to run in processes: the objects that are not in the
// agent, with those between them and the node.
func (p placement) hosted(n Node) host.Objects {
	needed := map[bundle.Version]bool{}
	for v := range p.processes {
		if p.local[v] == nil {
			for w := v; w != n.Native; w = p.processes[w].To {
				needed[w] = true
			}
		}
	}
	set := host.Objects{Native: n.Native, Node: n.Backends, Hold: n.Hold}
	for _, v := range slices.Sorted(maps.Keys(needed)) {
		set.List = append(set.List, p.processes[v])
	}
	return set
}

// placeOne makes one object ready: the one that answers in this process, or nil,
// and how it runs in a process. ok is false where its file or program is not here.
func (o *Objects) placeOne(one Object) (local so.Object, process host.Object, ok bool) {
	process = host.Object{Version: one.Callers, To: one.To, Kind: one.What.Kind, Reason: one.What.Reason, Memory: one.What.MemoryMax, Timeout: time.Duration(one.What.Timeout)}
	refuse := func(why string) (so.Object, host.Object, bool) {
		process.Kind, process.Reason = host.KindRefuse, why
		return so.Refuse(why), process, true
	}
	if one.Past == o.node.Back && one.What.Stateful() && o.mustEnd(o.node) {
		return refuse("the node is being upgraded") // callers are held meanwhile
	}
	switch one.What.Kind {
	case bundle.SimulateCompatible:
		return so.Compatible(), process, true
	case bundle.SimulateRefuse:
		return refuse(one.What.Reason)
	case bundle.SimulateRules:
		rules, here := o.parsed(one.What.Rules.Digest)
		switch {
		case !here:
			return nil, process, false
		case rules == nil:
			return refuse(badRules)
		case rules.Bounded():
			local = rules
		}
		process.Path = o.cfg.Depot.BlobPath(one.What.Rules.Digest)
		return local, process, true
	case bundle.SimulateWasm:
		process.Path, ok = o.path(one)
	case bundle.SimulateExec:
		if one.Program.IsZero() {
			return refuse(fmt.Sprintf("release %d has no software for %s, so no simulation object either", one.Release, o.cfg.Platform))
		}
		process.Dir, ok = o.path(one)
		process.Argv, process.Env = one.What.Exec, o.cfg.Env
	}
	if !ok {
		return nil, process, false
	}
	state := o.cfg.States.Future
	if one.Past {
		state = o.cfg.States.Past
	}
	dir, err := state(one.Release)
	if err == nil {
		err = o.cfg.States.Hand(dir, one.What.Kind == bundle.SimulateExec)
	}
	if err != nil {
		o.cfg.Alarm(fmt.Sprintf("simulation object for callers of version %d has no folder for its state: %v", one.Callers, err))
		return nil, process, false
	}
	process.State = dir
	if w, observes := o.observing(one); observes {
		process.Observe = w.path
	}
	return nil, process, true
}

// badRules is what callers are told whose rules are not in order.
const badRules = "the rules for this version do not parse"

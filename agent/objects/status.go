package objects

import (
	"maps"
	"slices"

	"moult/agent/control"
	"moult/simlayer/host"
	"moult/store/bundle"
)

// Status tells the state of each object, by rising version of its callers. Their calls are
// counted elsewhere.
func (o *Objects) Status() []control.ObjectStatus {
	processes := map[bundle.Version]host.Stats{}
	for _, s := range o.Processes() {
		processes[s.Version] = s
	}
	list := []control.ObjectStatus{}
	for _, v := range slices.Sorted(maps.Keys(o.all)) {
		one := o.all[v]
		_, placed := o.placed.processes[v]
		s := statusOf(one, placed, o.placed.local[v] != nil, processes[v])
		if rules, read := o.library.rules[one.What.Rules.Digest]; read && rules == nil && one.What.Kind == bundle.SimulateRules {
			s.State, s.Problem = control.ObjectBroken, badRules
		}
		list = append(list, s)
	}
	return list
}

// statusOf tells the state of one object: whether it has all that it needs, whether
// it answers in the agent, and else what is known of its process.
func statusOf(o Object, placed, local bool, p host.Stats) control.ObjectStatus {
	s := control.ObjectStatus{
		Callers: o.Callers, Calls: o.To, Release: o.Release, Side: control.SideFuture, Kind: o.What.Kind,
		Where: control.InAgent, State: control.ObjectRunning,
	}
	if o.Past {
		s.Side = control.SidePast
	}
	switch {
	case !placed:
		s.State, s.Problem = control.ObjectWaiting, "its files are not here yet"
		if o.What.Stateful() {
			s.Where = control.InProcess
		}
		return s
	case local && o.What.Stateful():
		s.Where, s.State, s.Problem = control.InProcess, control.ObjectIdle, "the node is being upgraded"
		return s
	case local:
		return s
	}
	s.Where, s.PID, s.Restarts, s.Problem = control.InProcess, p.PID, p.Restarts, p.Problem
	s.Oldest = bundle.Duration(p.Oldest)
	switch p.State {
	case host.StateRunning:
		if p.Problem != "" {
			s.State = control.ObjectBroken
		}
	case host.StateStarting:
		s.State = control.ObjectStarting
		if p.Restarts > 0 {
			s.State = control.ObjectRestarting
		}
	case host.StateResting:
		s.State = control.ObjectRestarting
	default:
		s.State = control.ObjectIdle
	}
	return s
}

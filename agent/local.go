package agent

import (
	"maps"
	"slices"
	"time"

	"moult/agent/control"
	"moult/simlayer"
	"moult/simlayer/host"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// local is what this agent alone knows of its node.
func (a *Agent) local() control.Local {
	stats := a.layer.Stats()
	l := control.Local{
		Name: a.cfg.Name, Native: a.native(), Egress: control.Way{Kind: a.ways.Egress.Kind, Why: a.ways.Egress.Why},
		Services: map[string]control.LocalService{}, Objects: []control.ObjectStatus{},
	}
	for name := range a.cfg.Services {
		w := a.wayOf(name)
		s := control.LocalService{Attach: control.Way{Kind: w.Kind, Why: w.Why}, Callers: map[bundle.Version]control.CallCount{}}
		for v, c := range stats.Services[name] {
			s.Callers[v] = countOf(c)
		}
		l.Services[name] = s
	}
	processes := map[bundle.Version]host.Stats{}
	if a.objects.host != nil {
		for _, s := range a.objects.host.Stats() {
			processes[s.Version] = s
		}
	}
	for _, v := range slices.Sorted(maps.Keys(a.serving.all)) {
		o := a.serving.all[v]
		_, placed := a.serving.placed.processes[v]
		s := objectStatus(o, placed, a.serving.placed.local[v] != nil, processes[v])
		if rules, read := a.rules[o.what.Rules.Digest]; read && rules == nil && o.what.Kind == bundle.SimulateRules {
			s.State, s.Problem = control.ObjectBroken, badRules
		}
		s.Counted = countOf(callsOf(stats, v))
		if w, observes := stats.Observers[v]; observes {
			s.Observation = &control.ObservationStatus{Told: w.Told, Missed: w.Missed, Waiting: w.Waiting, Whole: w.Whole, Problem: w.Problem}
		}
		l.Objects = append(l.Objects, s)
	}
	return l
}

// native is the version of the software that runs, or is being installed.
func (a *Agent) native() bundle.Version {
	if a.saved.Running != 0 {
		return a.saved.Running
	}
	return a.speaks
}

// callsOf adds up the calls of callers of one version.
func callsOf(stats simlayer.Stats, v bundle.Version) (sum tally.Calls) {
	for _, versions := range stats.Services {
		sum = sum.Add(versions[v])
	}
	return sum
}

func countOf(c tally.Calls) control.CallCount {
	n := control.CallCount{Calls: c.Calls, Denied: c.Denied, Errors: c.Errors, Open: c.Open, Last: c.Last.UTC().Truncate(time.Millisecond)}
	if c.Last.IsZero() {
		n.Last = time.Time{}
	}
	if c.Calls > 0 {
		n.Mean = bundle.Duration(c.Total / time.Duration(c.Calls))
	}
	return n
}

// objectStatus says how one object does: whether it has all that it needs, whether
// it answers in the agent, and else what is known of its process.
func objectStatus(o simulated, placed, local bool, p host.Stats) control.ObjectStatus {
	s := control.ObjectStatus{
		Callers: o.callers, Calls: o.to, Release: o.release, Side: control.SideFuture, Kind: o.what.Kind,
		Where: control.InAgent, State: control.ObjectRunning,
	}
	if o.past {
		s.Side = control.SidePast
	}
	switch {
	case !placed:
		s.State, s.Problem = control.ObjectWaiting, "what it is made of is not here yet"
		if o.what.Stateful() {
			s.Where = control.InProcess
		}
		return s
	case local && o.what.Stateful():
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

package agent

import (
	"time"

	"moult/agent/control"
	"moult/simlayer"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// local is what this agent alone knows of its node.
func (a *Agent) local() control.Local {
	stats := a.layer.Stats()
	l := control.Local{
		Name: a.cfg.Name, Native: a.answers.Native, Egress: control.Way{Kind: a.ways.Egress.Kind, Why: a.ways.Egress.Why},
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
	for _, s := range a.objects.Status() {
		own := stats.Past
		if s.Side == control.SideFuture {
			own = stats.Future
		}
		s.Counted = countOf(own[s.Callers])
		s.Counted.Open = callsOf(stats, s.Callers).Open
		if w, observes := stats.Observers[s.Callers]; observes {
			s.Observation = &control.ObservationStatus{Told: w.Told, Missed: w.Missed, Waiting: w.Waiting, Whole: w.Whole, Problem: w.Problem}
		}
		l.Objects = append(l.Objects, s)
	}
	return l
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

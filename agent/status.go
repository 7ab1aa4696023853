package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"moult/agent/control"
	"moult/agent/metrics"
	"moult/agent/report"
	"moult/simlayer"
	"moult/simlayer/tally"
	"moult/store/bundle"
	"moult/store/durable"
)

// report is what people are told of the cluster.
func (l *loop) report() report.Peer {
	return report.Peer{ID: l.ID, Cluster: l.Cluster, Node: l.node, Trust: l.trust, Now: time.Now()}
}

// status is the cluster as this peer sees it. heard is who answered just now;
// nil: go by the ring.
func (l *loop) status(heard map[bundle.NodeID]bool) control.Status {
	s := l.report().Status(heard)
	s.Local = l.local()
	return s
}

// local is what this agent alone knows of its node.
func (l *loop) local() control.Local {
	stats := l.layer.Stats()
	known := control.Local{
		Name: l.cfg.Name, Native: l.answering.Native, Egress: control.Way{Kind: l.ways.Egress.Kind, Why: l.ways.Egress.Why},
		Services: map[string]control.LocalService{}, Objects: []control.ObjectStatus{},
		Class: l.cfg.Class, Vars: slices.Sorted(maps.Keys(l.cfg.Vars)),
	}
	for name := range l.cfg.Services {
		w := l.wayOf(name)
		s := control.LocalService{Attach: control.Way{Kind: w.Kind, Why: w.Why}, Callers: map[bundle.Version]control.CallCount{}}
		for v, c := range stats.Services[name] {
			s.Callers[v] = countOf(c)
		}
		known.Services[name] = s
	}
	for _, s := range l.objects.Status() {
		own := stats.Past
		if s.Side == control.SideFuture {
			own = stats.Future
		}
		s.Counted = countOf(own[s.Callers])
		s.Counted.Open = callsOf(stats, s.Callers).Open
		if w, observes := stats.Observers[s.Callers]; observes {
			s.Observation = &control.ObservationStatus{Told: w.Told, Missed: w.Missed, Waiting: w.Waiting, Whole: w.Whole, Problem: w.Problem}
		}
		known.Objects = append(known.Objects, s)
	}
	return known
}

// snapshot is what a scrape of the metrics shows.
func (a *Agent) snapshot(ctx context.Context) (x metrics.Snapshot, err error) {
	if x.Status, err = askWithin(ctx, a, &statusWanted{}); err != nil {
		return x, err
	}
	stats := a.layer.Stats()
	x.Node, x.InFlight, x.Held, x.LongestHold = a.ID, stats.InFlight, stats.Held, stats.LongestHold
	x.Services, x.Took = stats.Services, stats.Took
	for _, n := range a.fetch.Stats() {
		x.Fetched += n
	}
	x.Taken, x.Served = a.Taken(), a.serve.Sent()
	t := a.ring.Traffic()
	x.Gossip = map[string]metrics.Moved{"packets": metrics.Moved(t.Packets), "ring": metrics.Moved(t.Ring), "peers": metrics.Moved(t.Peer)}
	x.Database, x.Depot = a.Store.Bytes(), a.Depot.Bytes()
	if x.FreeBytes, err = durable.FreeSpace(a.cfg.Data); err != nil {
		x.FreeBytes = -1
	}
	return x, nil
}

// callsOf adds up the calls of callers of one version.
func callsOf(stats simlayer.Stats, v bundle.Version) (sum tally.Calls) {
	for _, versions := range stats.Services {
		sum = sum.Add(versions[v])
	}
	return sum
}

func countOf(c tally.Calls) control.CallCount {
	n := control.CallCount{Calls: c.Calls, Denied: c.Denied, Errors: c.Errors, Canceled: c.Canceled, Open: c.Open, Total: bundle.Duration(c.Total), Last: c.Last.UTC().Truncate(time.Millisecond)}
	if c.Last.IsZero() {
		n.Last = time.Time{}
	}
	if c.Calls > 0 {
		n.Mean = bundle.Duration(c.Total / time.Duration(c.Calls))
	}
	return n
}

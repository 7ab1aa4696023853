package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/simlayer"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// status is the cluster as this peer sees it. heard is who answered just now;
// nil: go by the ring.
func (a *Agent) status(heard map[bundle.NodeID]bool) control.Status {
	s := control.Status{
		Cluster: a.cluster.Short(), Head: a.node.Head(), Alarms: a.node.Alarms(),
		Classes: map[bundle.Class]control.ClassStatus{}, Nodes: []control.NodeStatus{},
	}
	if s.Alarms == nil {
		s.Alarms = []string{}
	}
	if a.node.Expired() {
		s.Alarms = append(s.Alarms, "the signed metadata "+a.expiry()+": nothing new starts; `moult trust refresh`, then `moult trust push`")
	}
	alive := func(id bundle.NodeID) bool { return heard[id] }
	if heard == nil {
		alive = a.node.Alive
	}
	for _, r := range a.node.Known() {
		n := control.NodeStatus{
			Name: cmp.Or(r.Name, r.Node.Short()), Standing: string(a.node.Standing(r)), ID: r.Node, Class: r.Class, Version: r.Version, Runs: a.runs(r), Phase: string(r.Phase), Health: string(r.Health.State), Target: r.Target,
			Progress: r.Progress, Reachable: alive(r.Node), Away: a.node.Away(r.Node), Reason: r.Reason, Since: r.Since, Number: r.Seq, Running: r.Running, Metadata: r.Trust.Timestamp, Address: r.Addr, Platform: r.Platform, Enrolment: r.Enrolment, Reads: r.Reads,
			Services: map[string]control.ServiceStatus{},
		}
		for name, sv := range r.Services {
			n.Services[name] = control.ServiceStatus{Public: sv.Public, Versions: sv.Versions, Attach: sv.Attach, Egress: sv.Egress}
		}
		if n.Phase == string(upgrade.Waiting) && a.node.View().Len() <= maxExplained {
			n.Reason = a.waitsFor(r)
		}
		if r.Health.Unwell() {
			n.Reason = strings.TrimSuffix(r.Health.Reason+"; "+n.Reason, "; ")
		}
		if n.Phase == string(upgrade.Current) || n.Phase == string(upgrade.Settled) {
			n.Progress = 1
		}
		s.Nodes = append(s.Nodes, n)
	}
	slices.SortFunc(s.Nodes, func(x, y control.NodeStatus) int {
		return strings.Compare(x.Name+x.ID.String(), y.Name+y.ID.String())
	})
	a.releaseStatus(&s)
	if lonely := a.hearsNobody(&s); lonely != "" {
		s.Alarms = append(s.Alarms, lonely)
	}
	s.Local = a.local()
	return s
}

// hearsNobody says that no other agent can be reached; "" where one can, or none is missed.
func (a *Agent) hearsNobody(s *control.Status) string {
	others := 0
	for _, n := range s.Nodes {
		switch {
		case n.ID == a.id || n.Standing != "":
		case n.Reachable:
			return ""
		default:
			others++
		}
	}
	if others == 0 {
		return ""
	}
	return fmt.Sprintf("this agent hears no other (%d are known): what it shows of them may be old; see whether they run and whether the network leads there, or `moult join HOST:PORT`", others)
}

// releaseStatus fills in how far the release is that rolls.
func (a *Agent) releaseStatus(s *control.Status) {
	head := a.node.Rolling()
	count(s, head)
	if head == 0 {
		s.Release = control.ReleaseStatus{State: control.StateNone}
		return
	}
	if newest := a.node.Head(); newest > head {
		s.Alarms = append(s.Alarms, fmt.Sprintf("release %d was handed in without a rollout order: nothing of it begins; `moult inject BUNDLE` signs one", newest))
	}
	ref, _ := a.trust.Release(head)
	s.Release = control.ReleaseStatus{Version: head, Digest: ref.Digest, State: control.StateSpreading}
	if a.node.Conflicted(head) {
		s.Release.State, s.Release.Reason = control.StateHeld, "two releases with this number are signed: both are frozen"
		return
	}
	unwell := 0
	for _, c := range s.Classes {
		unwell += c.Unwell
	}
	o := a.node.Orders()[head]
	if o == nil {
		s.Release.Reason = "it has no rollout order here yet"
	} else {
		sum := schedule.Summary(o, a.node.View().Get)
		for class, c := range sum.Classes {
			cs := s.Classes[class]
			cs.Budget = c.Budget
			s.Classes[class] = cs
			unwell += c.Unwell // also those that failed in their soak and are well again
		}
		s.Release.State, s.Release.Reason = sum.State, sum.Reason
		if way := a.aroundRelease(sum); way != "" {
			s.Release.Reason += "; " + way
		}
	}
	var counted, behind, outside int
	var away []string
	for _, n := range s.Nodes {
		if n.Standing != "" {
			continue
		}
		counted++
		if n.Version >= head {
			continue
		}
		behind++
		if o == nil || !o.Names(n.Class, n.ID) {
			outside++
		} else if !n.Reachable {
			away = append(away, a.node.NameOf(n.ID))
		}
	}
	switch {
	case behind > 0 && len(away) == behind && s.Release.State == control.StateRolling:
		s.Release.Reason = fmt.Sprintf("only nodes that cannot be reached are below it: %s; `moult skip %s` goes on without it",
			strings.Join(away[:min(len(away), maxNamed)], ", "), away[0])
	case behind == 0 && counted > 0 && unwell == 0:
		s.Release.State, s.Release.Reason = control.StateComplete, ""
	case behind == 0 && o == nil:
		s.Release.State, s.Release.Reason = control.StateRolling, "nodes at the release are not well"
	case outside > 0 && s.Release.State == control.StateComplete:
		s.Release.State, s.Release.Reason = control.StateRolling, fmt.Sprintf("%d nodes that are not in the rollout order are below release %d", outside, head)
	}
}

// aroundRelease tells what leads on where a rollout has ended, or is held, because nodes
// cannot get past a release; "" where that is not so.
func (a *Agent) aroundRelease(r schedule.Rollout) string {
	if r.State != schedule.RolloutHeld && r.State != schedule.RolloutAborted {
		return ""
	}
	for _, class := range slices.Sorted(maps.Keys(r.Classes)) {
		if next, from, ok := a.afterWithdrawn(class); ok {
			return fmt.Sprintf("what stands in the way of class %s is withdrawn: build release %d with from = %d, and inject it", class, next, from)
		}
		if v := a.inTheWay(class); v != 0 && r.Classes[class].Held > 0 {
			return fmt.Sprintf("if no node can get past release %d, `moult withdraw --class %s %d` has the next one go around it", v, class, v)
		}
	}
	return ""
}

// afterWithdrawn returns the release that comes next, and from which version it is to take
// a class where what comes before it is withdrawn; false where nothing is.
func (a *Agent) afterWithdrawn(class bundle.Class) (next, from bundle.Version, ok bool) {
	next = a.trust.Head() + 1
	from, ok = a.node.From(class, next)
	return next, from, ok
}

// inTheWay returns the oldest release that changes a class and that no node of it is at: the
// one that can be withdrawn, where they cannot get past it. 0 for none.
func (a *Agent) inTheWay(class bundle.Class) bundle.Version {
	var at bundle.Version
	for _, r := range a.node.Known() {
		if r.Class == class && !a.node.Stranger(r.Node) && (a.node.Standing(r) == schedule.StandingIn || a.node.Alive(r.Node)) {
			at = max(at, r.Version, r.Running)
		}
	}
	manifests := a.node.Manifests()
	for _, v := range slices.Sorted(maps.Keys(manifests)) {
		if cu, changes := manifests[v].Classes[class]; changes && cu.From != 0 && v > at {
			return v
		}
	}
	return 0
}

// count fills in the counts of each class.
func count(s *control.Status, head bundle.Version) {
	for _, n := range s.Nodes {
		if n.Standing != "" {
			continue
		}
		c := s.Classes[n.Class]
		c.Total++
		switch {
		case n.Version >= head && n.Version > 0 && (view.Health{State: view.HealthState(n.Health)}).Unwell():
			c.Unwell++
		case n.Version >= head && n.Version > 0 && n.Health != string(view.HealthUnknown):
			c.Settled++
		case upgrade.Phase(n.Phase).Down():
			c.Down++
		case n.Phase == string(upgrade.Held):
			c.Held++
		default:
			c.Waiting++
		}
		s.Classes[n.Class] = c
	}
}

// local is what this agent alone knows of its node.
func (a *Agent) local() control.Local {
	stats := a.layer.Stats()
	l := control.Local{
		Name: a.cfg.Name, Native: a.answers.Native, Egress: control.Way{Kind: a.ways.Egress.Kind, Why: a.ways.Egress.Why},
		Services: map[string]control.LocalService{}, Objects: []control.ObjectStatus{},
		Class: a.cfg.Class, Vars: slices.Sorted(maps.Keys(a.cfg.Vars)),
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

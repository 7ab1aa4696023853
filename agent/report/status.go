package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Status is the cluster as this peer sees it. heard is who answered just now;
// nil: go by the ring.
func (p Peer) Status(heard map[bundle.NodeID]bool) control.Status {
	s := control.Status{
		Cluster: p.Cluster, Head: p.Node.Head(), Alarms: p.Node.Alarms(), Expires: p.Trust.Expires(), Lasts: p.Trust.Lasts(),
		Classes: map[bundle.Class]control.ClassStatus{}, Nodes: []control.NodeStatus{},
	}
	if s.Alarms == nil {
		s.Alarms = []string{}
	}
	alive := func(id bundle.NodeID) bool { return heard[id] }
	if heard == nil {
		alive = p.Node.Alive
	}
	for _, r := range p.Node.Known() {
		n := control.NodeStatus{
			Name: cmp.Or(r.Name, r.Node.Short()), Standing: string(p.Node.Standing(r)), ID: r.Node, Class: r.Class, Version: r.Stands(), Runs: p.runs(r), Phase: string(r.Phase), Health: string(r.Health.State), Target: r.Target,
			Progress: r.Progress, Reachable: alive(r.Node), Away: p.Node.Away(r.Node), Reason: r.Reason, Since: r.Since, Number: r.Seq, Running: r.Running, Metadata: r.Trust.Timestamp, Address: r.Addr, Platform: r.Platform, Labels: r.Labels, Enrolment: r.Enrolment, Joined: r.Joined, Reads: r.Reads, Turned: r.Turned, Final: r.Final, Rehearsed: r.Rehearsed, Agent: r.Agent, Facts: r.Facts,
			Services: map[string]control.ServiceStatus{},
		}
		for name, sv := range r.Services {
			n.Services[name] = control.ServiceStatus{Public: sv.Public, Versions: sv.Versions, Attach: sv.Attach, Egress: sv.Egress}
		}
		if r.Version > n.Version {
			n.Claims = r.Version
		}
		if waits(r) && p.Node.View().Len() <= maxExplained {
			n.Reason = p.waitsFor(r)
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
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.ID.String(), y.ID.String()))
	})
	p.releaseStatus(&s)
	for _, a := range p.alarms(&s) {
		s.Alarms = append(s.Alarms, a.Text)
	}
	return s
}

// alarms are those that follow from what the node says, beside its own.
func (p Peer) alarms(s *control.Status) (all []node.Alarm) {
	if p.Node.Expired() {
		all = append(all, node.Alarm{Cause: "expired", Text: "the signed metadata " + p.Expiry() + ": nothing new starts; `moult trust refresh`, then `moult trust push`"})
	} else if lasts := p.Trust.Lasts(); !lasts.IsZero() && lasts.Sub(p.Now) < trust.ExpirySoon {
		all = append(all, node.Alarm{Cause: "expires", Text: fmt.Sprintf("the signed metadata expire on %s, and then nothing new starts; `moult trust refresh`, then `moult trust push`", lasts.Format(time.DateOnly))})
	}
	if head, newest := p.Node.Rolling(), p.Node.Head(); head != 0 && newest > head {
		all = append(all, node.Alarm{Cause: fmt.Sprint("no order ", newest), Text: fmt.Sprintf("release %d was handed in without a rollout order, so it does not begin; `moult inject BUNDLE` signs one", newest)})
	}
	if idle := p.idle(s); idle != "" {
		all = append(all, node.Alarm{Cause: fmt.Sprint("progress ", p.Node.Rolling()), Text: idle})
	}
	if clocks := p.clocks(s); clocks != "" {
		all = append(all, node.Alarm{Cause: "clock", Text: clocks})
	}
	if lonely := p.hearsNobody(s); lonely != "" {
		all = append(all, node.Alarm{Cause: "alone", Text: lonely})
	}
	return all
}

// idle says that the newest rollout does not get on; "" where it does, or has come to its end.
func (p Peer) idle(s *control.Status) string {
	release := p.Node.Rolling()
	o := p.Node.Orders()[release]
	if o == nil {
		return ""
	}
	there := p.arrived(release, o)
	for _, class := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[class]
		idle := p.Node.Idle(release, class)
		if idle < time.Duration(cmp.Or(c.ProgressDeadline, progressExpected+c.LongestPause())) {
			continue
		}
		i := slices.IndexFunc(s.Nodes, func(n control.NodeStatus) bool {
			return n.Class == class && n.Standing == "" && o.Attempts(class, n.ID) > 0 && !there(n)
		})
		if i >= 0 {
			return fmt.Sprintf("the rollout of release %d does not get on: no node has newly settled for %s; `moult why %s` tells what that one waits for", release, bundle.Duration(idle.Truncate(time.Minute)), p.Node.NameOf(s.Nodes[i].ID))
		}
	}
	return ""
}

// clocks names the nodes whose clocks are ahead of this machine's; "" for none.
func (p Peer) clocks(s *control.Status) string {
	const matters = "windows, soaks and expiry go by each machine's own clock"
	var ahead []string
	others, found, least := 0, 0, time.Duration(0)
	for _, n := range s.Nodes {
		if n.ID == p.ID || n.Standing != "" || !n.Reachable {
			continue
		}
		others++
		by := p.Node.ClockAhead(n.ID).Round(time.Second)
		if by == 0 {
			continue
		}
		if least == 0 || by < least {
			least = by
		}
		if found++; len(ahead) < maxNamed {
			ahead = append(ahead, fmt.Sprintf("%s by %s or more", p.Node.NameOf(n.ID), bundle.Duration(by)))
		}
	}
	switch {
	case found == 0:
		return ""
	case found > 1 && 2*found > others:
		return fmt.Sprintf("the clock of this machine is behind those of most others, by %s or more: set it, by NTP say: %s", bundle.Duration(least), matters)
	case found > len(ahead):
		ahead = append(ahead, fmt.Sprintf("and %d more", found-len(ahead)))
	}
	return fmt.Sprintf("clocks are ahead of this machine's: %s: set them, by NTP say: %s", strings.Join(ahead, ", "), matters)
}

// hearsNobody says that no other agent can be reached; "" where one can, or none is missed.
func (p Peer) hearsNobody(s *control.Status) string {
	others := 0
	for _, n := range s.Nodes {
		switch {
		case n.ID == p.ID || n.Standing != "":
		case n.Reachable:
			return ""
		default:
			others++
		}
	}
	if others == 0 {
		return ""
	}
	return fmt.Sprintf("this agent cannot reach any other (%d are known): what it shows of them may be old; check that they run and that the network reaches them, or `moult join HOST:PORT`", others)
}

// releaseStatus fills in how far the release is that rolls.
func (p Peer) releaseStatus(s *control.Status) {
	head := p.Node.Rolling()
	o := p.Node.Orders()[head]
	there := p.arrived(head, o)
	count(s, there)
	if head == 0 {
		s.Release = control.ReleaseStatus{State: control.StateNone}
		return
	}
	ref, _ := p.Trust.Release(head)
	s.Release = control.ReleaseStatus{Version: head, Digest: ref.Digest, State: control.StateSpreading}
	if o != nil {
		s.Release.Turn, s.Release.Finalized = o.Turn, o.Finalized || p.finalAlone(o)
		s.Release.FinalizeAfter, s.Release.FinalizeAt = o.FinalizeAfter, p.Node.Finalizing().At
		s.Release.Agents = p.agents(o)
	}
	p.waysBack(s)
	if p.Node.Conflicted(head) {
		s.Release.State, s.Release.Reason = control.StateHeld, "two releases with this number are signed: both are frozen"
		return
	}
	unwell := 0
	for _, c := range s.Classes {
		unwell += c.Unwell
	}
	if o == nil {
		s.Release.Reason = "it has no rollout order here yet"
	} else {
		sum := schedule.Summary(o, p.Node.View().Get)
		for class, c := range sum.Classes {
			cs := s.Classes[class]
			cs.Budget = c.Budget
			s.Classes[class] = cs
			unwell += c.Unwell // also those that failed in their soak and are well again
		}
		s.Release.State, s.Release.Reason = sum.State, sum.Reason
		if held := p.heldBy(o); held != "" && sum.State == schedule.RolloutRolling {
			s.Release.State, s.Release.Reason = control.StateHeld, held
		}
		if way := p.aroundRelease(sum); way != "" {
			s.Release.Reason += "; " + way
		}
		if back := p.wayBack(o); back != "" && (s.Release.State == control.StateHeld || s.Release.State == control.StateAborted) {
			s.Release.Reason += "; " + back
		}
	}
	var counted, behind, outside int
	var away []string
	for _, n := range s.Nodes {
		if n.Standing != "" {
			continue
		}
		counted++
		if there(n) {
			continue
		}
		behind++
		if o == nil || !o.Names(n.Class, n.ID) {
			outside++
		} else if !n.Reachable {
			away = append(away, p.Node.NameOf(n.ID))
		}
	}
	switch {
	case behind > 0 && len(away) == behind && s.Release.State == control.StateRolling:
		s.Release.Reason = fmt.Sprintf("only nodes that cannot be reached are %s it: %s; `moult skip %s` goes on without it",
			side(o), strings.Join(away[:min(len(away), maxNamed)], ", "), away[0])
	case behind == 0 && counted > 0 && unwell == 0:
		s.Release.State, s.Release.Reason = control.StateComplete, ""
	case behind == 0 && o == nil:
		s.Release.State, s.Release.Reason = control.StateRolling, "nodes at the release are not well"
	case outside > 0 && s.Release.State == control.StateComplete:
		s.Release.State, s.Release.Reason = control.StateRolling, fmt.Sprintf("%d nodes that are not in the rollout order are %s release %d", outside, side(o), head)
	}
}

// finalAlone reports whether any node is known to have finalized a release by its own word.
func (p Peer) finalAlone(o *schedule.Order) bool {
	return slices.ContainsFunc(p.Node.Known(), func(r view.Record) bool {
		return o.FinalBy(r) && o.Attempts(r.Class, r.Node) > 0
	})
}

// waysBack tells where the release cannot be taken back that has the newest order, which
// another may have been handed in after.
func (p Peer) waysBack(s *control.Status) {
	orders := p.Node.Orders()
	if len(orders) == 0 {
		return
	}
	newest := slices.Max(slices.Sorted(maps.Keys(orders)))
	for _, class := range slices.Sorted(maps.Keys(orders[newest].Classes)) {
		cs := s.Classes[class]
		if cs.NoWayBack = p.Node.NoWayBack(class, newest); cs.NoWayBack == "" {
			cs.BackTo, cs.BackToDoubt = p.Node.BackTo(class, newest)
		}
		s.Classes[class] = cs
	}
}

// side is on which side of the release nodes are that are not where its order leads.
func side(o *schedule.Order) string {
	if o != nil && o.Back() {
		return "still at"
	}
	return "below"
}

// arrived tells which nodes are where a release leads, or the order that takes it back.
func (p Peer) arrived(head bundle.Version, o *schedule.Order) func(control.NodeStatus) bool {
	return func(n control.NodeStatus) bool {
		if o == nil || o.Turn == 0 {
			return n.Version >= head && n.Version > 0
		}
		r, _ := p.Node.View().Get(n.ID)
		// Who has no place in it, and is below, has nothing to take back.
		return o.Arrived(r) || o.Back() && !o.Names(n.Class, n.ID) && n.Version < head && r.Running < head
	}
}

// heldBy tells by which condition an order is held; "" where by none.
func (p Peer) heldBy(o *schedule.Order) string {
	asked := map[bundle.Class]int{}
	for _, r := range p.Node.Known() {
		if r.Phase != upgrade.Waiting || r.Target != o.Release || o.Classes[r.Class].HoldIf == "" || asked[r.Class] == maxExplained {
			continue
		}
		asked[r.Class]++ // one may wait for something else, or by a condition over itself
		if d := p.decisionUnder(r, o.Release); d.Code == schedule.CodeHoldIf {
			return fmt.Sprintf("%s (`%s` passes over that)", d.Text, d.Command)
		}
	}
	return ""
}

// aroundRelease tells what leads on where a rollout has ended, or is held, because nodes
// cannot get past a release; "" where that is not so.
func (p Peer) aroundRelease(r schedule.Rollout) string {
	if r.State != schedule.RolloutHeld && r.State != schedule.RolloutAborted {
		return ""
	}
	for _, class := range slices.Sorted(maps.Keys(r.Classes)) {
		if next, from, ok := p.afterWithdrawn(class); ok {
			return fmt.Sprintf("what stands in the way of class %s is withdrawn: build release %d with from = %d, and inject it", class, next, from)
		}
		if v := p.inTheWay(class); v != 0 && r.Classes[class].Held > 0 {
			return fmt.Sprintf("if no node can get past release %d, `moult withdraw --class %s %d` has the next one go around it", v, class, v)
		}
	}
	return ""
}

// wayBack tells what takes the release of an order back that nodes are at; "" where nothing
// does.
func (p Peer) wayBack(o *schedule.Order) string {
	if o == nil || o.Back() || o.Joined != nil && o.Joined.Open {
		return ""
	}
	at, to := false, ""
	for _, r := range p.Node.Known() {
		if _, concerned := o.Classes[r.Class]; !concerned || p.Node.Stranger(r.Node) {
			continue
		}
		if p.Node.NoWayBack(r.Class, o.Release) != "" {
			return ""
		}
		if max(r.Stands(), r.Running) < o.Release {
			continue
		}
		if v, doubt := p.Node.BackTo(r.Class, o.Release); doubt != "" {
			to = fmt.Sprintf("`moult revert --to %d %d` takes it back, but to release %d, which %s", v, o.Release, v, doubt)
		}
		at = true
	}
	if !at || to != "" {
		return to
	}
	return fmt.Sprintf("`moult revert %d` takes it back", o.Release)
}

// afterWithdrawn returns the release that comes next, and from which version it is to take
// a class where what comes before it is withdrawn; false where nothing is.
func (p Peer) afterWithdrawn(class bundle.Class) (next, from bundle.Version, ok bool) {
	next = p.Trust.Head() + 1
	from, ok = p.Node.From(class, next)
	return next, from, ok
}

// inTheWay returns the oldest release that changes a class and that no node of it is at: the
// one that can be withdrawn, where they cannot get past it. 0 for none.
func (p Peer) inTheWay(class bundle.Class) bundle.Version {
	var at bundle.Version
	for _, r := range p.Node.Known() {
		if r.Class == class && !p.Node.Stranger(r.Node) && (p.Node.Standing(r) == schedule.StandingIn || p.Node.Alive(r.Node)) {
			at = max(at, r.Version, r.Running)
		}
	}
	manifests := p.Node.Manifests()
	for _, v := range slices.Sorted(maps.Keys(manifests)) {
		if cu, changes := manifests[v].Classes[class]; changes && cu.From != 0 && v > at {
			return v
		}
	}
	return 0
}

// count fills in the counts of each class. Nodes are settled that are there, and well.
func count(s *control.Status, there func(control.NodeStatus) bool) {
	for _, n := range s.Nodes {
		if n.Standing != "" {
			continue
		}
		c := s.Classes[n.Class]
		c.Total++
		switch {
		case there(n) && (view.Health{State: view.HealthState(n.Health)}).Unwell():
			c.Unwell++
		case there(n) && n.Health != string(view.HealthUnknown):
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

// Expiry says when the metadata in force have expired.
func (p Peer) Expiry() string {
	text := "expired on " + p.Trust.Expires().Format(time.DateOnly)
	if !p.Trust.Expired(p.Now) {
		text += " by this peer's clock, which was set back since"
	}
	return text
}

package node

import (
	"fmt"
	"math"
	"strings"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// tell returns the record to be told, if it says anything new. What it promises
// (Version, Obeys, Ended) is durable: it is read from the state that was saved.
// Its number is reserved, durably, some at a time, so that none is used twice, even
// when the database is lost.
func (n *Node) tell() *view.Record {
	r := n.record()
	if n.doubtful || n.apart.mute || r.SaysAs(&n.own) {
		return nil
	}
	next := n.number + n.apart.ahead + 1
	if next > n.floorSaved.Numbers {
		n.floor.Numbers = max(n.floor.Numbers, next+numbersAtOnce)
		return nil // it is told once they are reserved
	}
	r.Since = n.own.Since
	if r.Phase != n.own.Phase || r.Since.IsZero() {
		r.Since = n.now.UTC().Truncate(time.Millisecond)
	}
	r.Seq = next
	return &r
}

// record is what this node says of itself now.
func (n *Node) record() view.Record {
	s := n.saved
	r := view.Record{
		Node: n.cfg.Self, Key: n.cfg.Key, Name: n.cfg.Name, Class: n.cfg.Class,
		Addr: n.addr, Version: s.Claims(), Target: s.Goal, Running: s.Running, Phase: s.Phase,
		Reason: n.reason(s), Obeys: s.Obeys,
		Ended:  view.Ended{Release: s.EndedRelease, Count: s.EndedCount},
		Held:   s.Phase == upgrade.Held,
		Health: n.healthSaid(s), Rehearsed: s.Rehearsed, Facts: n.factsSaid(s),
		Services: map[string]view.ServiceAddr{},
		Labels:   n.cfg.Labels, Platform: n.cfg.Platform,
		Trust:  view.Heads{Root: n.meta.Root, Timestamp: n.meta.Timestamp, Head: n.meta.Head()},
		Alarms: n.Alarms(), Left: n.left, Enrolment: n.cfg.Enrolment, Joined: n.docs.joined, Reads: view.ReadsTurns, Turned: s.Turned, Final: s.Final,
	}
	r.Agent = n.agentSaid()
	if s.Version < r.Version && s.Turned.Release > s.Version {
		r.At = s.Version
	}
	if s.Phase == upgrade.Fetching {
		r.Progress = math.Floor(10*n.progress) / 10
	}
	for name, addr := range n.services {
		addr.Native = s.Running
		r.Services[name] = addr
	}
	return r
}

// reason is what the record says beside the phase. Of a node that waits it is a
// code, not the names of those that it waits for: these change with every step
// that any of them takes, and each change would be a record from every node.
// Whoever shows it can tell the whole reason from the view.
func (n *Node) reason(s upgrade.State) string {
	switch {
	case n.full != "":
		return n.full
	case n.trouble != "":
		return n.trouble
	case n.noWay != "":
		return n.noWay
	case s.Phase == upgrade.Rehearsing && n.wait.Code != "":
		return waitWords + n.wait.Code
	case s.Reason != "":
		return s.Reason
	case s.Phase == upgrade.Waiting && n.wait.Code != "":
		return waitWords + n.wait.Code
	}
	return ""
}

// waitWords begin the reason of a node that waits for the schedule's word.
const waitWords = "waits: "

// IsWait tells that a record's reason is the code of a wait.
func IsWait(reason string) bool { return strings.HasPrefix(reason, waitWords) }

// told puts the node's own record, as it was signed, into the view.
func (n *Node) told(s view.Signed) {
	_, _ = n.view.Merge(s) // it was signed just now
	n.apart = apart{text: n.Apart(), spoke: true, mute: n.Apart() != "", aware: n.apart.aware && !n.synced}
	n.routing.stale = true
	n.heard(n.cfg.Self)
	if r, ok := n.view.Get(n.cfg.Self); ok {
		n.noteNumbers(r)
		n.noteSource(r)
		n.noteStranger(r)
	}
	n.noteDone(n.cfg.Self)
}

// Merge takes over the records that are news, and returns whose. The error says what
// was wrong with others. It is an event like those of Step.
func (n *Node) Merge(now time.Time, records ...view.Signed) (changed []bundle.NodeID, err error) {
	n.now, n.rests = now, false
	changed, err = n.view.Merge(n.makeRoom(records)...)
	for _, id := range changed {
		n.routing.stale = true
		n.heard(id)
		r, _ := n.view.Get(id)
		n.noteNumbers(r)
		n.noteSource(r)
		n.noteStranger(r)
	}
	for _, id := range changed {
		if id == n.cfg.Self {
			n.surpassPublished()
			continue
		}
		if r, ok := n.view.Get(id); ok {
			n.noteClock(r)
		}
		n.noteDone(id)
	}
	return changed, err
}

// surpassPublished answers a record that this node's key signed, newer than any that
// this agent has signed: the data folder is older than what peers have seen of
// the node. What it said then it goes on saying.
func (n *Node) surpassPublished() {
	r, ok := n.view.Get(n.cfg.Self)
	if !ok || n.Apart() != "" {
		return
	}
	foreign := r.Seq > n.number || r.Seq == n.number && n.apart.spoke // below, an older folder may have signed it
	n.number = max(n.number, r.Seq)
	n.own = view.Record{} // told again, above it
	if foreign && !n.apart.aware {
		n.part(fmt.Sprintf("record %d is by this node's key, says that it is at %s, and is not of this folder", r.Seq, r.Addr))
		return
	} else if foreign {
		n.apart.ahead = regained
	}
	if n.cfg.Enrolment.IsZero() {
		n.cfg.Enrolment = r.Enrolment // the database was lost, and the token is not here
	}
	if r.Version > max(n.saved.Claims(), n.saved.Running) {
		n.alarm(causeFolder, olderFolder(r.Version, n.saved.Running))
	}
	n.answers = append(n.answers, upgrade.Reminded{Promises: upgrade.Promises{
		Settled: r.Version, Obeys: r.Obeys, EndedRelease: r.Ended.Release, EndedCount: r.Ended.Count, Turned: r.Turned, Final: r.Final,
	}})
	n.takeAnswers()
}

// noteDone remembers when this agent first saw a node at a release: soak times count
// from there, so a wrong clock elsewhere cannot shorten them.
func (n *Node) noteDone(id bundle.NodeID) {
	r, ok := n.view.Get(id)
	if !ok {
		return
	}
	for _, v := range sorted(n.docs.orders) {
		n.noteDoneAt(r, v)
	}
}

func (n *Node) noteDoneAt(r view.Record, v bundle.Version) {
	k := settlement{r.Node, v}
	switch _, seen := n.doneAt[k]; {
	case r.Stands() < v:
		delete(n.doneAt, k) // it may come there again
	case !seen:
		n.doneAt[k] = n.now
	}
}

// noteAllDone does that for a release whose first order has arrived.
func (n *Node) noteAllDone(v bundle.Version) {
	for r := range n.view.All() {
		n.noteDoneAt(r, v)
	}
}

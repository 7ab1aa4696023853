package node

import (
	"fmt"
	"slices"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// alarm is what an operator should look at, by its cause: it goes when the cause
// does.
type alarm struct{ cause, text string }

const (
	causeFork      = "fork"      // two sets of metadata with one number
	causeWay       = "way"       // no way to the newest release
	causeRecords   = "records"   // stored records are damaged
	causeAddress   = "address"   // several nodes claim one
	causePorts     = "ports"     // too few for the callers that are about
	causeDoubt     = "doubt"     // the newest writes may be lost
	causeHealth    = "health"    // the software is not well
	causeWithdrawn = "withdrawn" // what this node runs is
	causeCopy      = "copy"      // of the state: it takes longer than callers are held
	causeFolder    = "folder"    // the data folder is older than what the node has said
	causeMembers   = "members"   // who belongs to the cluster is not understood
	causeFinalized = "finalized" // the command of a release that is finalized fails
	causeAgent     = "agent"     // a build of it was put back, or cannot be put in place
	causeStranger  = "stranger"  // this node does not belong to it
	causeApart     = "apart"     // its key is used elsewhere, or its folder is of another time
)

func causeRelease(v bundle.Version) string  { return fmt.Sprint("release ", v) }
func causeManifest(v bundle.Version) string { return fmt.Sprint("manifest ", v) }
func causeOrder(v bundle.Version) string    { return fmt.Sprint("order ", v) }

// alarm raises the alarm of a cause; without a text the cause has gone.
func (n *Node) alarm(cause, text string) {
	i := slices.IndexFunc(n.alarms, func(a alarm) bool { return a.cause == cause })
	switch {
	case text == "" && i >= 0:
		n.alarms = slices.Delete(slices.Clone(n.alarms), i, i+1)
	case text == "":
	case i >= 0:
		n.alarms[i].text = text
	case len(n.alarms) < maxKept: // none pushes another out
		n.raised = append(n.raised, text)
		n.alarms = append(n.alarms, alarm{cause, text})
	}
}

// AlarmList are the alarms by their causes, the oldest first.
func (n *Node) AlarmList() (all []Alarm) {
	for _, a := range n.alarms {
		all = append(all, Alarm{Cause: a.cause, Text: a.text})
	}
	return all
}

// Alarms are what an operator should look at, the oldest first, and how many there are
// beside those that a record has room for; nil for nothing.
func (n *Node) Alarms() (texts []string) {
	for _, a := range n.alarms {
		if !slices.Contains(texts, a.text) {
			texts = append(texts, a.text)
		}
	}
	if more := len(texts) - maxAlarms + 1; more > 1 {
		texts = append(texts[:maxAlarms-1], fmt.Sprintf("and %d more, which the log of this agent has", more))
	}
	return texts
}

// apart is what a node knows of others that sign by its key: [Node.Apart]; mute once a record says so,
// lest two outbid each other for ever; spoke: this run has told one; aware until then, or not, that
// the folder has lost some: its first is ahead of those.
type apart struct {
	text               string
	mute, spoke, aware bool
	ahead              uint64
}

// Apart says that this node's key has signed what its folder does not know of: another machine has
// the key, or the folder is older. Nothing begins before somebody has said which is the node.
func (n *Node) Apart() string { return n.apart.text }

func (n *Node) part(what string) {
	if n.Apart() == "" {
		n.apart.text = what + ": a copied data folder, or an older one of this node? Nothing begins here until you say which is the node: there, end the agent and type `moult restore --here`; every other needs a key of its own"
		n.alarm(causeApart, n.Apart())
	}
}

// abstains reports that nothing may begin here, whatever the ring says.
func (n *Node) abstains() bool { return n.trial || n.Apart() != "" }

// clock is by how much a node's clock is ahead of this one's, at least, as of the phase that it
// said it began.
type clock struct {
	since time.Time
	ahead time.Duration
}

// noteClock compares when a node says that its phase began with the time here: it cannot have
// begun later than now. That a clock is behind nothing shows, for a record may be old.
func (n *Node) noteClock(r view.Record) {
	ahead := r.Since.Sub(n.now)
	switch known, ok := n.clocks[r.Node]; {
	case ok && known.since.Equal(r.Since):
	case ahead > clockSlack:
		n.clocks[r.Node] = clock{r.Since, ahead}
	default:
		delete(n.clocks, r.Node)
	}
}

// ClockAhead is by how much the clock of a node was ahead of this one's, at least, when it last
// said anything that shows it; 0 for nothing, or where either may have been set since: the clock
// here is past that by more than clockShown. For people only: no decision goes by it.
func (n *Node) ClockAhead(id bundle.NodeID) time.Duration {
	if c := n.clocks[id]; n.now.Sub(c.since) <= clockShown {
		return c.ahead
	}
	return 0
}

func olderFolder(said, running bundle.Version) string {
	return fmt.Sprintf("this data folder is older than what the node has said: it had settled at version %d; its state is that of version %d", said, running)
}

// copied counts the transforms of a path that are copies.
func (n *Node) copied(path []bundle.Version) (times int) {
	for _, v := range path {
		if m := n.docs.manifests[v]; m != nil {
			if cu, changes := m.Classes[n.cfg.Class]; changes && cu.Copies() {
				times++
			}
		}
	}
	return times
}

// warnOfCopy raises an alarm as long as the node is on its way to a release whose copies of
// the state take longer than callers are held.
func (n *Node) warnOfCopy() {
	s, text := n.saved, ""
	if s.Goal != 0 && s.Served && s.Running == n.copies.Version && (s.Phase == upgrade.Waiting || s.Phase.Down()) {
		text = n.copies.Warning(n.copied(s.Path), n.hold(s))
	}
	n.alarm(causeCopy, text)
}

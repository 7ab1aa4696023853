package node

import (
	"fmt"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
)

// agents is what becomes of this agent itself; the schedule's StepAgent decides it.
type agents struct {
	known         AgentKnown // the zero value: the driver says nothing, and nothing is done
	memory, saved schedule.AgentMemory
	step          schedule.AgentStep  // as decided last
	wish          *schedule.AgentStep // for the next Ready
	told          bool                // it was, and is not answered
	notBefore     time.Time           // after a problem
	due           bool                // it is looked at now and then: nobody waits for it
}

// anew has it decided again.
func (a *agents) anew() { a.step, a.wish, a.told, a.due = schedule.AgentStep{}, nil, false, true }

func (n *Node) agentKnown(e AgentKnown) {
	n.agents.known = e
	n.agents.anew()
	if e.Problem != "" {
		n.agents.notBefore = n.now.Add(retryLater)
	}
	n.alarm(causeAgent, e.Problem)
}

// replaceAgent looks what is to be done about this agent.
func (n *Node) replaceAgent() {
	a := &n.agents
	if !a.due || a.told || a.known.Runs.IsZero() || n.doubtful || n.left || n.forked || n.BelowFloor() || n.now.Before(a.notBefore) {
		return
	}
	a.due = false
	o := n.newestOrder()
	if o == nil || o.Agents == nil || n.OrderPending(o.Release) {
		a.step, a.wish = schedule.AgentStep{}, nil
		return
	}
	release := o.Agents.Release
	m := n.docs.manifests[release]
	if m == nil || n.docs.known[release] != o.Agents.Manifest || n.disowned(release) {
		return // it has not arrived, or is not what the order means
	}
	if own, ok := n.view.Get(n.cfg.Self); ok { // where the disk has lost it
		a.memory.Done = max(a.memory.Done, own.Agent.Done)
	}
	in, s := n.Input(o.Release), n.machine.State()
	in.Conflict = in.Conflict || n.Conflicted(release)
	a.step = schedule.StepAgent(schedule.AgentInput{
		Input: in, Memory: a.memory, Agent: m.Agent, Platform: n.cfg.Platform, Known: a.known.AgentKnown,
		Busy: s.Phase.Down() || s.Phase == upgrade.Rehearsing || s.Phase == upgrade.Probing || n.check.state != checkNone || n.staged != nil,
	})
	a.memory, a.wish = a.step.Memory, nil
	if step := a.step; step.Fetch || step.Replace {
		a.wish = &step
	}
	text := ""
	if a.step.Failed != 0 {
		text = fmt.Sprintf("%s; `%s` tries it again, and a release with another agent takes its place", a.step.Reason.Text, a.step.Reason.Command)
	}
	if text != "" || a.wish == nil { // else what was in the way is until that is known
		n.alarm(causeAgent, text)
	}
}

// agentSaid is what the record says of it: what is durable, and what follows from that.
func (n *Node) agentSaid() (b view.AgentBuild) {
	a := &n.agents
	if own, ok := n.view.Get(n.cfg.Self); ok {
		b.Done = own.Agent.Done
	}
	b.Done = max(b.Done, a.saved.Done)
	if !a.known.Runs.IsZero() {
		b.Program = a.known.Runs.Hex()[:agentDigits]
	}
	b.Trying, b.Failed = a.step.Trying, a.step.Failed
	return b
}

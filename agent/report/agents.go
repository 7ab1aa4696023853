package report

import (
	"fmt"
	"strings"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// agents tells how far the agents are that an order replaces; nil where it replaces none.
func (p Peer) agents(o *schedule.Order) *control.AgentsStatus {
	sum, ok := o.AgentsProgress(p.Node.View().Get)
	if !ok {
		return nil
	}
	s := &control.AgentsStatus{
		Release: sum.Release, Total: sum.Total, Done: sum.Done, Budget: sum.Budget,
		Trying: p.namesOf(sum.Trying), Failed: p.namesOf(sum.Failed),
	}
	s.Words = fmt.Sprintf("agents: %d of %d are of release %d, or need it no more", s.Done, s.Total, s.Release)
	if len(s.Trying) > 0 {
		s.Words += "; on trial at " + few(s.Trying)
	}
	if len(s.Failed) > 0 {
		s.Words += fmt.Sprintf("; put back at %s: `moult retry %s` tries it again there, and a release with a mended agent takes its place", few(s.Failed), s.Failed[0])
		if len(s.Failed) >= s.Budget {
			s.Words += "; no other is replaced meanwhile"
		}
	}
	return s
}

// whyAgent says what the agent of a node waits for; "" where it waits for nothing.
func (p Peer) whyAgent(r view.Record, o *schedule.Order) string {
	switch {
	case o.AgentAttempts(r.Node) == 0 || r.Agent.Done >= o.Agents.Release:
		return ""
	case r.Agent.Trying == o.Agents.Release:
		return fmt.Sprintf("its agent is being replaced by that of release %d", o.Agents.Release)
	case r.Agent.Failed == o.Agents.Release:
		return fmt.Sprintf("its agent was put back from that of release %d: its alarms say why; `moult retry %s` tries it again", o.Agents.Release, p.Node.NameOf(r.Node))
	}
	in := p.Node.Input(o.Release)
	in.Self = r.Node
	return schedule.DecideAgent(in).Reason.Text
}

func (p Peer) namesOf(ids []bundle.NodeID) []string {
	names := []string{}
	for _, id := range ids {
		names = append(names, p.Node.NameOf(id))
	}
	return names
}

// few lists some names.
func few(names []string) string {
	text := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if more := len(names) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

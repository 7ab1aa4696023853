package web

import (
	"time"

	"moult/agent/control"
	"moult/store/bundle"
)

// span is one phase of a node, as far as it was seen here. It lasts until the next begins.
type span struct {
	Phase   string         `json:"phase"`
	Version bundle.Version `json:"version"`
	// From is when it began by the node's own clock, or where that is not told when it was
	// seen, in milliseconds since 1970.
	From int64 `json:"from"`
}

// seen returns the phases of a node with what its status now says. spans stays as it is.
func seen(spans []span, n control.NodeStatus, now time.Time) []span {
	from := now
	if !n.Since.IsZero() {
		from = n.Since
	}
	next := span{Phase: n.Phase, Version: n.Version, From: from.UnixMilli()}
	if len(spans) > 0 {
		last := spans[len(spans)-1]
		if last.Phase == next.Phase && (n.Since.IsZero() || last.From == next.From) {
			return spans
		}
		next.From = max(next.From, last.From) // its clock may have been set back
	}
	if len(spans) >= maxSpans {
		spans = spans[len(spans)-maxSpans+1:]
	}
	return append(spans[:len(spans):len(spans)], next)
}

// Timeline is the rollout as it was seen, and of the agent's own node as its journal has it.
type Timeline struct {
	Cluster bundle.Digest `json:"cluster"`
	At      time.Time     `json:"at"` // when it was asked for
	Nodes   []TimelineRow `json:"nodes"`
}

// TimelineRow is one node.
type TimelineRow struct {
	Name  string        `json:"name"`
	ID    bundle.NodeID `json:"id"`
	Class bundle.Class  `json:"class"`
	// Source is "journal" for the agent's own node, and "seen" for the others, whose phases
	// may be missing where they were shorter than the time between two looks.
	Source string          `json:"source"`
	Phases []TimelinePhase `json:"phases"`
}

// TimelinePhase is one bar.
type TimelinePhase struct {
	At      time.Time       `json:"at"`
	Phase   string          `json:"phase"`
	Version bundle.Version  `json:"version"`
	Took    bundle.Duration `json:"took,omitempty"` // 0: it goes on
}

func (n *node) row(history *control.History) TimelineRow {
	row := TimelineRow{Name: n.tile.Name, ID: n.tile.ID, Class: n.tile.Class, Source: "seen", Phases: []TimelinePhase{}}
	if history != nil && history.ID == n.tile.ID {
		row.Source = "journal"
		for _, p := range history.Phases {
			if !p.At.IsZero() {
				row.Phases = append(row.Phases, TimelinePhase{At: p.At.UTC(), Phase: p.Phase, Version: p.Version, Took: p.Took})
			}
		}
		return row
	}
	for i, s := range n.tile.Past {
		p := TimelinePhase{At: time.UnixMilli(s.From).UTC(), Phase: s.Phase, Version: s.Version}
		if i+1 < len(n.tile.Past) {
			p.Took = bundle.Duration(time.Duration(n.tile.Past[i+1].From-s.From) * time.Millisecond)
		}
		row.Phases = append(row.Phases, p)
	}
	return row
}

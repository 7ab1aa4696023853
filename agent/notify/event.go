package notify

import (
	"strings"
	"time"

	"moult/agent/report"
	"moult/store/bundle"
)

// Cleared is the kind of an event that says that a condition has ended; the other kinds are
// package report's.
const Cleared = "cleared"

// Event is what the command is told, as JSON on its standard input.
type Event struct {
	// Event is the kind, and Of, where it is Cleared, that of what has ended.
	Event string `json:"event"`
	Of    string `json:"of,omitempty"`
	// Key is the same in the event that says that something begins and in that which says
	// that it has ended.
	Key string `json:"key"`
	// Time is when the agent noticed it.
	Time time.Time `json:"time"`
	// Cluster, Node, ID and Class are whose agent says it.
	Cluster bundle.Digest `json:"cluster"`
	Node    string        `json:"node"`
	ID      bundle.NodeID `json:"id"`
	Class   bundle.Class  `json:"class"`
	// Release is the one that it is about, and State that of its rollout.
	Release bundle.Version `json:"release,omitempty"`
	State   string         `json:"state,omitempty"`
	Text    string         `json:"text"`
	// Missed counts the events before this one that the command was not told, or at which
	// it failed.
	Missed int `json:"missed"`
}

// Source is who tells.
type Source struct {
	Cluster bundle.Digest
	Node    string
	ID      bundle.NodeID
	Class   bundle.Class
}

func (s Source) event(c report.Condition, at time.Time, ended bool) Event {
	e := Event{
		Event: c.Kind, Key: c.Key, Time: at.UTC().Truncate(time.Millisecond),
		Cluster: s.Cluster, Node: s.Node, ID: s.ID, Class: s.Class, Release: c.Release, State: c.State, Text: c.Text,
	}
	if ended {
		e.Event, e.Of = Cleared, c.Kind
	}
	return e
}

func short(text string) string {
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

package gossip

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/serf/serf"

	"moult/store/bundle"
)

// A Hint announces that a newer trust set exists. Nothing is believed of it:
// it only makes its receivers ask.
type Hint struct {
	Timestamp int64         `json:"timestamp"` // version of the TUF timestamp
	Digest    bundle.Digest `json:"digest"`    // of the trust set
}

// announcement is a Hint as it travels.
type announcement struct {
	Hint
	From bundle.NodeID `json:"from"`
}

const trustEvent = "moult/trust"

func parseAnnouncement(payload []byte) (announcement, error) {
	var a announcement
	if err := json.Unmarshal(payload, &a); err != nil {
		return a, fmt.Errorf("announcement: %w", err)
	}
	if a.Digest.IsZero() || a.Timestamp < 1 {
		return a, errors.New("announcement: no trust set named")
	}
	return a, nil
}

// A mailbox stands between Serf, which must never wait, and those who act on
// what it says. It merges what is alike and bounds what is not, so it never
// refuses and never grows: member changes become one flag, conflicts and
// hints are kept once each, queries beyond the bound are not answered.
type mailbox struct {
	members   chan struct{} // one token: members have changed
	conflicts chan Conflict
	queries   chan *serf.Query
	hinted    chan struct{} // one token: hints are waiting

	mu    sync.Mutex // protects what follows
	hints []announcement
}

func newMailbox() *mailbox {
	return &mailbox{members: make(chan struct{}, 1), conflicts: make(chan Conflict, 64),
		queries: make(chan *serf.Query, maxQueries), hinted: make(chan struct{}, 1)}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (m *mailbox) conflict(c Conflict) {
	select {
	case m.conflicts <- c:
	default: // it will be seen again
	}
}

func (m *mailbox) query(q *serf.Query) {
	select {
	case m.queries <- q:
	default:
	}
}

func (m *mailbox) hint(a announcement) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, old := range m.hints {
		if old.Hint == a.Hint {
			return
		}
	}
	if len(m.hints) == maxHints {
		m.hints = m.hints[1:]
	}
	m.hints = append(m.hints, a)
	poke(m.hinted)
}

func (m *mailbox) takeHints() []announcement {
	m.mu.Lock()
	defer m.mu.Unlock()
	hints := m.hints
	m.hints = nil
	return hints
}

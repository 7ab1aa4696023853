package home

import (
	"encoding/json"
	"fmt"
	"time"

	"moult/agent/control"
	"moult/agent/upgrade"
	"moult/store"
	"moult/store/bundle"
)

// journalled is what the journal has of a state of the machine. Entries of older agents say
// no time.
type journalled struct {
	At time.Time `json:"at,omitzero"`
	upgrade.State
}

// History tells, from the journal, what the node went through, the oldest first: a phase
// each, and of those the newest maxHistory. It may be called from any goroutine.
func (h *Home) History() (control.History, error) { return h.history(maxHistory) }

func (h *Home) history(most int) (control.History, error) {
	past := control.History{Node: h.cfg.Name, ID: h.ID, Class: h.cfg.Class}
	var before control.HistoryPhase
	first := true
	err := h.Store.Journal(0, func(e store.Entry) error {
		if first {
			past.Older, first = e.Seq > 1, false
		}
		if e.Kind != journalUpgrade {
			return nil
		}
		var s journalled
		if err := json.Unmarshal(e.Data, &s); err != nil {
			return fmt.Errorf("read entry %d of the journal: %w", e.Seq, err)
		}
		now := phaseOf(s)
		if n := len(past.Phases); n > 0 && same(before, now) {
			past.Phases[n-1].Reason = now.Reason
			return nil
		} else if n > 0 && !now.At.IsZero() && !before.At.IsZero() {
			past.Phases[n-1].Took = bundle.Duration(max(now.At.Sub(before.At), 0))
		}
		past.Phases = append(past.Phases, now)
		if len(past.Phases) >= 2*most {
			past.Phases, past.Older = append([]control.HistoryPhase(nil), past.Phases[most:]...), true
		}
		before = now
		return nil
	})
	if over := len(past.Phases) - most; over > 0 {
		past.Phases, past.Older = past.Phases[over:], true
	}
	return past, err
}

func phaseOf(s journalled) control.HistoryPhase {
	release := s.Order()
	if release == 0 && s.Phase == upgrade.Held {
		release = s.Failed()
	}
	return control.HistoryPhase{
		At: s.At, Phase: string(s.Phase), Version: s.Version, Running: s.Running, Release: release, Back: s.Reverts != 0, Reason: s.Reason,
	}
}

// same reports whether nothing has happened between two states but what a phase is made of.
func same(a, b control.HistoryPhase) bool {
	return a.Phase == b.Phase && a.Release == b.Release && a.Back == b.Back && a.Version == b.Version && a.Running == b.Running
}

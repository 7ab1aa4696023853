package home

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"moult/agent/control"
	"moult/agent/upgrade"
	"moult/store"
	"moult/store/bundle"
)

// journalled is what the journal has of a state of the machine. Entries of older agents say
// no time.
type journalled struct {
	At  time.Time `json:"at,omitzero"`
	Log []string  `json:"log,omitempty"`
	upgrade.State
}

// brought is what the journal has of metadata that brought documents into force; of others,
// and by older agents, it has a digest alone.
type brought struct {
	Metadata bundle.Digest           `json:"metadata"`
	Signed   []control.HistorySigned `json:"signed"`
}

// History tells, from the journal, what the node went through, the oldest first: a phase
// each, and which signed documents came into force, and of both the newest maxHistory. It may be called from any goroutine.
func (h *Home) History() (control.History, error) { return h.history(maxHistory) }

func (h *Home) history(most int) (control.History, error) {
	past := control.History{Node: h.cfg.Name, ID: h.ID, Class: h.cfg.Class, Signed: []control.HistorySigned{}}
	var before control.HistoryPhase
	first := true
	err := h.Store.Journal(0, func(e store.Entry) error {
		if first {
			past.Older, first = e.Seq > 1, false
		}
		switch {
		case e.Kind == journalTrust && bytes.HasPrefix(e.Data, []byte("{")):
			var b brought
			if err := json.Unmarshal(e.Data, &b); err != nil {
				return fmt.Errorf("read entry %d of the journal: %w", e.Seq, err)
			}
			past.Signed = append(past.Signed, b.Signed...)
			past.Signed, past.Older = newest(past.Signed, 2*most, most, past.Older)
			return nil
		case e.Kind != journalUpgrade:
			return nil
		}
		var s journalled
		if err := json.Unmarshal(e.Data, &s); err != nil {
			return fmt.Errorf("read entry %d of the journal: %w", e.Seq, err)
		}
		now := phaseOf(s)
		if n := len(past.Phases); n > 0 && before.Same(now) {
			past.Phases[n-1].Reason = now.Reason
			if len(now.Log) > 0 {
				past.Phases[n-1].Log = now.Log
			}
			return nil
		} else if n > 0 && !now.At.IsZero() && !before.At.IsZero() {
			past.Phases[n-1].Took = bundle.Duration(max(now.At.Sub(before.At), 0))
		}
		past.Phases = append(past.Phases, now)
		past.Phases, past.Older = newest(past.Phases, 2*most, most, past.Older)
		before = now
		return nil
	})
	past.Phases, past.Older = newest(past.Phases, most, most, past.Older)
	past.Signed, past.Older = newest(past.Signed, most, most, past.Older)
	for i := range past.Signed {
		h.recallOrder(&past.Signed[i])
	}
	return past, err
}

// recallOrder has an order say what it says where it arrived after the metadata that named it.
func (h *Home) recallOrder(s *control.HistorySigned) {
	if s.Kind != control.SignedOrder || s.Says != "" {
		return
	}
	if data, ok, err := h.Depot.Blob(s.Digest); err == nil && ok {
		s.Says = control.OrderSays(data)
	}
}

// newest cuts all down to the last keep where there are more than most, and says whether
// something was cut off, now or before.
func newest[T any](all []T, most, keep int, before bool) ([]T, bool) {
	if len(all) <= most {
		return all, before
	}
	return slices.Clone(all[len(all)-keep:]), true
}

func phaseOf(s journalled) control.HistoryPhase {
	release := s.Order()
	if release == 0 && s.Phase == upgrade.Held {
		release = s.Failed()
	}
	return control.HistoryPhase{
		At: s.At, Phase: string(s.Phase), Version: s.Version, Running: s.Running, Release: release, Back: s.Reverts != 0, Reason: s.Reason, Log: s.Log,
	}
}

package home

import (
	"encoding/json"
	"fmt"
	"time"

	"moult/agent/control"
	"moult/gossip/view"
	"moult/store"
	"moult/store/bundle"
)

// A Sighting is a phase of another node, as its record says it.
type Sighting struct {
	Node   bundle.NodeID
	Number uint64 // of the record, which only rises; 0: there is none
	Name   string
	Class  bundle.Class
	Phase  control.HistoryPhase
}

// SightingOf is what a record says.
func SightingOf(r view.Record) Sighting {
	s := Sighting{Node: r.Node, Number: r.Seq, Name: r.Name, Class: r.Class, Phase: control.HistoryPhase{
		At: r.Since, Phase: string(r.Phase), Version: r.Stands(), Running: r.Running, Reason: clip(r.Reason, maxSeenReason),
	}}
	if r.Target != r.Stands() {
		s.Phase.Release = r.Target
	}
	return s
}

// AddSightings keeps what was seen of other nodes, the oldest first, and of each the newest
// maxSeen phases. A phase that is known is not told twice.
func (h *Home) AddSightings(all []Sighting) error {
	by := map[bundle.NodeID][]Sighting{}
	for _, s := range all {
		by[s.Node] = append(by[s.Node], s)
	}
	docs, size := map[string][]byte{}, 0
	for id, seen := range by {
		data, err := h.withSightings(id, seen)
		if err != nil {
			return fmt.Errorf("keep what was seen of node %s: %w", id.Short(), err)
		}
		if data == nil {
			continue
		}
		docs[id.String()] = data
		if size += len(data); size > maxSeenBatch || len(docs) == RecordsPerBatch {
			if err := h.putSeen(docs); err != nil {
				return err
			}
			docs, size = map[string][]byte{}, 0
		}
	}
	return h.putSeen(docs)
}

func (h *Home) putSeen(docs map[string][]byte) error {
	if len(docs) == 0 {
		return nil
	}
	return h.Store.Update(func(tx *store.Tx) error {
		for id, data := range docs {
			if err := tx.Put(bucketSeen, id, data); err != nil {
				return err
			}
		}
		return nil
	})
}

// withSightings is what is to be kept of a node now; nil where nothing is new.
func (h *Home) withSightings(id bundle.NodeID, seen []Sighting) ([]byte, error) {
	past, err := h.Seen(id)
	if err != nil {
		return nil, err
	}
	news := false
	for _, s := range seen {
		news = past.See(s) || news
	}
	if !news {
		return nil, nil
	}
	past.Phases, past.Older = newest(past.Phases, maxSeen, maxSeen, past.Older)
	return json.Marshal(past)
}

// Past is what was seen of a node. Number is that of the last record that told of a phase; 0
// where an older agent did not keep it.
type Past struct {
	control.History
	Number uint64 `json:"number,omitempty"`
}

// See adds the phase of a later record, unless it is the last one, and reports whether it did.
// Which is later the records' numbers tell: the node's clock may have been put back. How long
// the phase before took is until then, as what came between may not have been seen; 0 over a
// clock that was put back.
func (p *Past) See(s Sighting) bool {
	if s.Number <= p.Number {
		return false
	}
	p.Number, p.Node, p.Class = s.Number, s.Name, s.Class
	if n := len(p.Phases); n > 0 {
		last := &p.Phases[n-1]
		if last.Same(s.Phase) && last.At.Equal(s.Phase.At) {
			return false
		}
		last.Took = bundle.Duration(max(0, s.Phase.At.Sub(last.At).Truncate(time.Millisecond)))
	}
	p.Phases = append(p.Phases, s.Phase)
	return true
}

// Seen is what was seen of another node, the oldest first. It may be called from any
// goroutine.
func (h *Home) Seen(id bundle.NodeID) (Past, error) {
	past := Past{History: control.History{ID: id, Seen: true, Phases: []control.HistoryPhase{}, Signed: []control.HistorySigned{}}}
	data, ok, err := h.Store.Get(bucketSeen, id.String())
	if err != nil || !ok {
		return past, err
	}
	if err := json.Unmarshal(data, &past); err != nil {
		return past, fmt.Errorf("read what was seen of node %s: %w", id.Short(), err)
	}
	return past, nil
}

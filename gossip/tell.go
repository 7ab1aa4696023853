package gossip

import (
	"context"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Rumour starts to tell a changed record to random peers. It never waits:
// when too much is being told already, the record is left to anti-entropy.
func (g *Gossip) Rumour(s view.Signed) {
	if g.cfg.RumourInterval == 0 {
		return
	}
	select {
	case g.told <- s:
	default:
	}
}

// receiveRumour takes a packet from memberlist's receive loop, which must not
// wait.
func (g *Gossip) receiveRumour(packet []byte) {
	if g.cfg.RumourInterval == 0 {
		return
	}
	select {
	case g.rumours <- packet:
	default:
	}
}

// tellRumours owns the set of rumours: it takes in what is new here and what
// peers tell, and passes it on in rounds.
func (g *Gossip) tellRumours() {
	set := newRumours(g.self)
	ticker := time.NewTicker(g.cfg.RumourInterval)
	defer ticker.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case s := <-g.told:
			g.tell(set, s)
		case b := <-g.rumours:
			p, err := parseRumour(b)
			if err != nil {
				g.cfg.Log.Debug("ignored a rumour", "err", err)
				continue
			}
			if len(p.Records) > 0 {
				for _, s := range g.cfg.Replica.Merge(p.From, p.Records) {
					g.tell(set, s)
				}
			}
			g.enqueueHints(p)
		case <-ticker.C:
			g.spread(set)
		}
	}
}

func (g *Gossip) tell(set *rumours, s view.Signed) {
	node, seq, err := s.Number() // the replica has verified it
	if err != nil {
		g.cfg.Log.Warn("a record cannot be told", "err", err)
		return
	}
	entry, err := entryOf(s, node, seq)
	if err != nil {
		g.cfg.Log.Warn("a record cannot be told", "err", err)
		return
	}
	set.add(node, seq, entry, g.cfg.RumourRounds)
}

// spread tells one round to a few random live members. While there are none,
// rumours wait.
func (g *Gossip) spread(set *rumours) {
	if len(set.queue) == 0 {
		return
	}
	peers := g.live()
	if len(peers) == 0 {
		return
	}
	packets := set.round(packetsPerRound)
	for _, m := range peers[:min(g.cfg.RumourFanout, len(peers))] {
		for _, b := range packets {
			if err := g.sendRumour(m, b); err != nil {
				g.cfg.Log.Debug("rumour not sent", "to", m.Name, "err", err)
			}
		}
	}
}

// fetchHint is a hint with the peer that holds the record.
type fetchHint struct {
	from bundle.NodeID
	recordHint
}

func (g *Gossip) enqueueHints(p rumourPacket) {
	if p.From == g.self {
		return
	}
	for _, h := range p.Hints {
		select {
		case g.hints <- fetchHint{p.From, h}:
		default:
		}
	}
}

// fetchHinted asks peers for the records that they only hinted at, many at a
// time, and passes on what was news.
func (g *Gossip) fetchHinted() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case h := <-g.hints:
			wanted := map[bundle.NodeID]map[bundle.NodeID]bool{}
			for more := true; more; {
				if !g.knows(h.recordHint) {
					if wanted[h.from] == nil {
						wanted[h.from] = map[bundle.NodeID]bool{}
					}
					wanted[h.from][h.Node] = true
				}
				select {
				case h = <-g.hints:
				default:
					more = false
				}
			}
			for from, nodes := range wanted {
				g.fetch(from, nodes)
			}
		}
	}
}

// knows reports whether the record that a hint names, or a newer one, is here.
func (g *Gossip) knows(h recordHint) bool {
	for _, s := range g.cfg.Replica.Records([]bundle.NodeID{h.Node}) {
		if _, seq, err := s.Number(); err == nil && seq >= h.Seq {
			return true
		}
	}
	return false
}

func (g *Gossip) fetch(from bundle.NodeID, nodes map[bundle.NodeID]bool) {
	ctx, cancel := context.WithTimeout(g.ctx, responseHeaderTimeout)
	defer cancel()
	var ids []bundle.NodeID
	for id := range nodes {
		ids = append(ids, id)
	}
	for _, page := range idPages(ids) {
		news, err := g.askRecords(ctx, Peer{ID: from}, from, recordsRequest{Want: page})
		if err != nil {
			g.cfg.Log.Debug("hinted records not fetched", "err", err)
			return
		}
		for _, s := range news {
			g.Rumour(s)
		}
	}
}

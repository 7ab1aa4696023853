package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// SyncNow exchanges records and trust metadata with one peer, both ways, and
// returns when both hold what either held.
func (g *Gossip) SyncNow(ctx context.Context, p Peer) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	answered, err := g.exchange(ctx, p)
	g.mu.Lock()
	if err != nil {
		g.report.LastError = err.Error()
	} else {
		g.report.Exchanges++
		g.report.LastPeer, g.report.LastTime, g.report.LastError = answered, time.Now(), ""
	}
	g.mu.Unlock()
	if err != nil {
		return fmt.Errorf("anti-entropy: %w", err)
	}
	if g.cfg.Exchanged != nil {
		g.cfg.Exchanged(answered)
	}
	g.syncedOnce.Do(func() { close(g.synced) })
	return nil
}

// exchange is the anti-entropy protocol, see the package's documentation.
func (g *Gossip) exchange(ctx context.Context, p Peer) (bundle.NodeID, error) {
	var answered bundle.NodeID
	tried := map[view.Stamp]bool{} // records that went over already: a peer that offers them again has not verified them, or we have not
	for round := 0; round < maxRounds; round++ {
		mine := g.heads()
		reply, id, err := g.askDigest(ctx, p, mine)
		if err != nil {
			return answered, err
		}
		if round == 0 {
			answered = id
			if err := g.exchangeTrust(ctx, Peer{ID: id, Addr: p.Addr}, mine, reply.Heads); err != nil {
				return answered, err
			}
		}
		if len(reply.Buckets) == 0 {
			return answered, nil
		}
		ours := g.cfg.Replica.Stamps(reply.Buckets)
		d := untried(diff(ours, reply.Stamps), ours, reply.Stamps, tried)
		if d.empty() {
			return answered, nil // what still differs, one of us has refused
		}
		if err := g.transfer(ctx, p, answered, d); err != nil {
			return answered, err
		}
	}
	return answered, fmt.Errorf("%s: the views still differ after %d rounds", p, maxRounds)
}

// untried takes out of a delta what was tried in this exchange, and notes the
// rest as tried.
func untried(d delta, mine, theirs []view.Stamp, tried map[view.Stamp]bool) delta {
	keep := func(ids []bundle.NodeID, stamps []view.Stamp) []bundle.NodeID {
		wanted := make(map[bundle.NodeID]bool, len(ids))
		for _, id := range ids {
			wanted[id] = true
		}
		var out []bundle.NodeID
		for _, s := range stamps {
			if wanted[s.Node] && !tried[s] {
				tried[s] = true
				out = append(out, s.Node)
			}
		}
		return out
	}
	return delta{want: keep(d.want, theirs), push: keep(d.push, mine)}
}

func (g *Gossip) heads() heads {
	t, d, e := g.cfg.Replica.TrustDigest()
	return heads{t, d, e}
}

func (g *Gossip) askDigest(ctx context.Context, p Peer, mine heads) (digestReply, bundle.NodeID, error) {
	var reply digestReply
	body, err := json.Marshal(digestRequest{mine, packBuckets(g.cfg.Replica.Buckets())})
	if err != nil {
		return reply, bundle.NodeID{}, err
	}
	data, id, err := g.call(ctx, p, http.MethodPost, pathDigest, body, maxStampsBody)
	if err != nil {
		return reply, id, err
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return reply, id, fmt.Errorf("%s: %s: the answer: %w", p, pathDigest, err)
	}
	for _, b := range reply.Buckets {
		if b < 0 || b >= view.NumBuckets {
			return reply, id, fmt.Errorf("%s: %s: the answer names bucket %d of %d", p, pathDigest, b, view.NumBuckets)
		}
	}
	return reply, id, nil
}

// transfer moves records both ways, page by page.
func (g *Gossip) transfer(ctx context.Context, p Peer, id bundle.NodeID, d delta) error {
	want := idPages(d.want)
	push := recordPages(g.cfg.Replica.Records(d.push))
	for i := range max(len(want), len(push)) {
		var req recordsRequest
		if i < len(want) {
			req.Want = want[i]
		}
		if i < len(push) {
			req.Push = push[i]
		}
		if _, err := g.askRecords(ctx, p, id, req); err != nil {
			return err
		}
	}
	return nil
}

// askRecords makes one request for records, merges the answer, and returns
// what was news.
func (g *Gossip) askRecords(ctx context.Context, p Peer, id bundle.NodeID, req recordsRequest) ([]view.Signed, error) {
	var reply recordsReply
	if err := g.callJSON(ctx, p, pathRecords, req, &reply, maxRecordsBody); err != nil {
		return nil, err
	}
	if len(reply.Records) > len(req.Want) {
		return nil, fmt.Errorf("%s: %s: %d records for %d that were asked for", p, pathRecords, len(reply.Records), len(req.Want))
	}
	if len(reply.Records) == 0 {
		return nil, nil
	}
	return g.cfg.Replica.Merge(id, reply.Records), nil
}

func (g *Gossip) exchangeTrust(ctx context.Context, p Peer, mine, theirs heads) error {
	pull, push := trustDelta(mine, theirs)
	for _, d := range pull {
		transfer := refusedSet{set: d, head: mine.Digest}
		if g.refused.has(transfer, time.Now()) {
			continue
		}
		set, _, err := g.call(ctx, p, http.MethodGet, pathTrust+"/"+d.Hex(), nil, maxTrustSet)
		var gone *refusal
		if errors.As(err, &gone) && gone.status == http.StatusNotFound {
			continue // replaced meanwhile by a newer one
		}
		if err != nil {
			return err
		}
		if bundle.Sum(set) != d {
			return fmt.Errorf("%s sent another trust set than %s", p, d.Short())
		}
		if g.cfg.Replica.OfferTrust(p.ID, set) {
			g.refused.note(transfer, time.Now())
		}
	}
	for _, d := range push {
		transfer := refusedSet{peer: p.ID, set: d, head: theirs.Digest}
		if g.refused.has(transfer, time.Now()) {
			continue
		}
		set, ok := g.cfg.Replica.TrustSet(d)
		if !ok {
			continue
		}
		_, _, err := g.call(ctx, p, http.MethodPost, pathTrust, set, maxHeaderBytes)
		var full *refusal
		if errors.As(err, &full) && full.status == http.StatusInsufficientStorage {
			continue // next time; records need not wait for that
		}
		if err != nil {
			return err
		}
		g.refused.note(transfer, time.Now())
	}
	return nil
}

// syncRegularly is the guarantee: an exchange with a random live member in
// each interval.
func (g *Gossip) syncRegularly() {
	if g.cfg.SyncInterval == 0 {
		return
	}
	for g.sleep(jitter(g.cfg.SyncInterval)) {
		if live := g.live(); len(live) > 0 {
			g.syncWith(Peer{ID: live[0].ID, Addr: live[0].Addr})
		}
	}
}

// SyncSoon asks for an exchange with a node of the ring, without waiting for it.
func (g *Gossip) SyncSoon(id bundle.NodeID) { g.syncSoon(Peer{ID: id}) }

// syncSoon asks for an exchange with a peer, without waiting for it.
func (g *Gossip) syncSoon(p Peer) {
	select {
	case g.urgent <- p:
	default: // enough is going on already
	}
}

// syncUrgent exchanges with those who are known to have news; when one does
// not answer, with others in its stead.
func (g *Gossip) syncUrgent() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case p := <-g.urgent:
			for p := range g.withOthers(p, 2) {
				if g.syncWith(p) {
					break
				}
			}
		}
	}
}

// withOthers yields p and then up to n other live members, at random.
func (g *Gossip) withOthers(p Peer, n int) func(yield func(Peer) bool) {
	return func(yield func(Peer) bool) {
		if !yield(p) {
			return
		}
		for _, m := range g.live() {
			if n == 0 || m.ID != p.ID && !yield(Peer{ID: m.ID, Addr: m.Addr}) {
				return
			}
			n--
		}
	}
}

func (g *Gossip) syncWith(p Peer) bool {
	err := g.SyncNow(g.ctx, p)
	if err != nil && g.ctx.Err() == nil {
		g.cfg.Log.Info("an exchange failed", "err", err)
	}
	return err == nil
}

// followHints exchanges at once with whoever announced something new. The
// wait before it grows with the ring, so that not all call at the same moment.
func (g *Gossip) followHints() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.mail.hinted:
		}
		spread := min(2*time.Second, time.Duration(len(g.Members()))*5*time.Millisecond)
		if !g.sleep(rand.N(spread + 1)) {
			return
		}
		peers := map[bundle.NodeID]bool{}
		for _, a := range g.mail.takeHints() {
			h := g.heads()
			if a.Digest != h.Digest && a.Digest != h.Evidence && a.Timestamp >= h.Timestamp {
				peers[a.From] = true
			}
		}
		for _, id := range slices.Collect(maps.Keys(peers)) {
			g.syncSoon(Peer{ID: id})
		}
	}
}

// sleep waits, and reports false when Gossip is closed meanwhile.
func (g *Gossip) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-g.ctx.Done():
		return false
	}
}

// jitter spreads what would otherwise happen everywhere at once.
func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }

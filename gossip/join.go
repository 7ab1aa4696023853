package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// enoughJoined is how many answering peers end a Join: the ring tells the
// others.
const enoughJoined = 3

// Join contacts peers by address until three have answered, and returns how
// many did; an exchange with the first follows at once. The error says why
// none did, peer by peer; it is nil when one did. A Conflict of this agent's
// name is reported by the peer that knows of it and ends the Join.
func (g *Gossip) Join(ctx context.Context, addrs []string) (int, error) {
	if len(addrs) > maxJoinAddresses {
		return 0, fmt.Errorf("joining %d addresses: want at most %d", len(addrs), maxJoinAddresses)
	}
	joined := 0
	var failed error
	for _, addr := range addrs {
		if joined == enoughJoined || ctx.Err() != nil {
			break
		}
		p, err := g.joinOne(ctx, addr)
		switch {
		case err == nil && p.ID == g.self: // its own address among those remembered
		case err == nil:
			if joined == 0 {
				g.syncSoon(p)
			}
			joined++
		case failed == nil:
			failed = err
		default:
			failed = fmt.Errorf("%w; %w", failed, err)
		}
	}
	switch {
	case joined > 0:
		return joined, nil
	case failed == nil && ctx.Err() != nil:
		failed = context.Cause(ctx)
	case failed == nil:
		failed = errors.New("no address of another agent was given")
	}
	return 0, fmt.Errorf("joining the ring: %w", failed)
}

// joinOne first asks who is there, over our own protocol: that gives a clear
// refusal, where memberlist would give a broken stream.
func (g *Gossip) joinOne(ctx context.Context, addr string) (Peer, error) {
	if addr == g.Addr() {
		return Peer{ID: g.self}, nil
	}
	resolved, err := resolve(ctx, addr)
	if err != nil {
		return Peer{}, fmt.Errorf("peer at %s: %w", addr, err)
	}
	p, err := g.hello(ctx, Peer{Addr: resolved.String()})
	if err != nil {
		return Peer{}, err
	}
	if p.ID == g.self {
		return p, nil
	}
	if _, err := g.serf.Join([]string{p.Addr}, true); err != nil {
		return Peer{}, fmt.Errorf("%s: %w", p, err)
	}
	return p, nil
}

// keepJoined joins Config.Peers whenever this agent knows no live member,
// with growing, jittered pauses; and else tries one of them now and then.
func (g *Gossip) keepJoined() {
	backoff := g.cfg.JoinBackoff
	if !g.sleep(rand.N(backoff/2 + 1)) { // so that a mass restart is not one moment
		return
	}
	for {
		alone := len(g.live()) == 0
		if alone || g.cfg.RejoinInterval > 0 {
			g.tryPeers(alone)
		}
		pause := jitter(backoff)
		if len(g.live()) > 0 {
			backoff = g.cfg.JoinBackoff
			if pause = time.Hour; g.cfg.RejoinInterval > 0 {
				pause = jitter(g.cfg.RejoinInterval)
			}
		} else {
			backoff = min(2*backoff, g.cfg.JoinBackoffMax)
		}
		if !g.pauseUnlessAlone(pause, alone) {
			return
		}
	}
}

// pauseUnlessAlone waits; it ends early when a ring that had members has
// lost the last of them. It reports false when Gossip is closed.
func (g *Gossip) pauseUnlessAlone(d time.Duration, wasAlone bool) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return false
		case <-t.C:
			return true
		case <-g.lonely:
			if !wasAlone && len(g.live()) == 0 {
				return true
			}
			wasAlone = len(g.live()) == 0
		}
	}
}

// tryPeers joins some of Config.Peers: all in random order while alone, else
// one that is not a live member.
func (g *Gossip) tryPeers(alone bool) {
	known := map[string]bool{g.Addr(): true}
	for _, m := range g.live() {
		known[m.Addr] = true
	}
	var addrs []string
	for _, a := range g.cfg.Peers() {
		if !known[a] {
			known[a] = true
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return
	}
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	if addrs = addrs[:min(len(addrs), maxJoinAddresses)]; !alone {
		addrs = addrs[:1]
	}
	_, err := g.Join(g.ctx, addrs)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.report.JoinError = ""
	if err != nil && alone {
		g.report.JoinError = err.Error()
		g.cfg.Log.Info("not joined yet", "error", err)
	}
}

// mustJSON encodes values that cannot fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a type of this package that JSON does not know
	}
	return b
}

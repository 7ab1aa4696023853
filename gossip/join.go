package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"moult/store/bundle"
)

const (
	// enoughJoined is how many answering peers end a Join: the ring tells the
	// others.
	enoughJoined = 3
	// joinBatch is how many addresses are tried at a time: one that swallows
	// packets must not hold up the others.
	joinBatch = 8
)

// Join contacts peers by address until three have answered, and returns how
// many did; an exchange with the first follows at once. The error says why
// none did, peer by peer; it is nil when one did.
func (g *Gossip) Join(ctx context.Context, addrs []string) (int, error) {
	if len(addrs) > maxJoinAddresses {
		return 0, fmt.Errorf("joining %d addresses: want at most %d", len(addrs), maxJoinAddresses)
	}
	joined := map[bundle.NodeID]bool{}
	var failed error
	for batch := range slices.Chunk(addrs, joinBatch) {
		for _, a := range g.askAll(ctx, batch) {
			err := a.err
			if err == nil && (a.peer.ID == g.self || joined[a.peer.ID]) {
				continue // its own address among those remembered, or one peer twice
			}
			if err == nil {
				err = g.joinPeer(a.peer, len(joined) == 0)
			}
			switch {
			case err == nil:
				joined[a.peer.ID] = true
			case failed == nil:
				failed = err
			default:
				failed = fmt.Errorf("%w; %w", failed, err)
			}
			if len(joined) == enoughJoined {
				return enoughJoined, nil
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	switch {
	case len(joined) > 0:
		return len(joined), nil
	case failed == nil && ctx.Err() != nil:
		failed = context.Cause(ctx)
	case failed == nil:
		failed = errors.New("no address of another agent was given")
	}
	return 0, fmt.Errorf("joining the ring: %w", failed)
}

type helloAnswer struct {
	peer Peer
	err  error
}

// askAll first asks who is there, over our own protocol: that gives a clear
// refusal, where memberlist would give a broken stream. The answers are in the
// order of the addresses.
func (g *Gossip) askAll(ctx context.Context, addrs []string) []helloAnswer {
	answers := make([]helloAnswer, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() { answers[i].peer, answers[i].err = g.askOne(ctx, addr) })
	}
	wg.Wait()
	return answers
}

func (g *Gossip) askOne(ctx context.Context, addr string) (Peer, error) {
	if addr == g.Addr() {
		return Peer{ID: g.self}, nil
	}
	resolved, err := resolve(ctx, addr)
	if err != nil {
		return Peer{}, fmt.Errorf("peer at %s: %w", addr, err)
	}
	p, err := g.hello(ctx, Peer{Addr: resolved.String()})
	if err == nil && p.ID != g.self {
		if c := g.twin(ctx, p.ID, p.Addr); c != nil {
			g.mail.conflict(*c)
			return p, c
		}
	}
	return p, err
}

func (g *Gossip) joinPeer(p Peer, first bool) error {
	if _, err := g.serf.Join([]string{p.Addr}, true); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if first {
		g.syncSoon(p)
	}
	return nil
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
	g.report.JoinError, g.report.Refused = "", ""
	if r, ok := errors.AsType[*refusal](err); ok && alone && r.status == http.StatusConflict {
		g.report.Refused = r.text
	}
	if err != nil && alone {
		g.report.JoinError = err.Error()
		g.cfg.Log.Info("not joined yet", "err", err)
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

package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"moult/store/bundle"
)

// FetchBlob returns the bytes of a blob, verified. It asks one peer after the
// other, and the next one also when an answer takes long; then all of them
// again with growing pauses. It gives up only with ctx.
func (f *Fetcher) FetchBlob(ctx context.Context, ref bundle.Chunk) ([]byte, error) {
	if ref.Length < 0 || ref.Length > MaxBlob {
		return nil, fmt.Errorf("fetch blob %s: %d bytes, at most %d are allowed", ref.Digest.Short(), ref.Length, MaxBlob)
	}
	liars := map[bundle.NodeID]bool{}
	for pause := restFirst; ; pause = min(2*pause, restLast) {
		if data, ok := f.blobRound(ctx, ref, blobOrder(f.ask.peers.Peers(), liars), liars); ok {
			return data, nil
		}
		t := time.NewTimer(pause*3/4 + time.Duration(rand.Int64N(int64(pause)/2)))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("fetch blob %s: %w", ref.Digest.Short(), ctx.Err())
		case <-t.C:
		}
	}
}

// blobRound asks each of the peers at most once, and returns when one of them
// has given the blob or all have answered.
func (f *Fetcher) blobRound(ctx context.Context, ref bundle.Chunk, order []bundle.NodeID, liars map[bundle.NodeID]bool) ([]byte, bool) {
	type answer struct {
		peer bundle.NodeID
		data []byte
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	answers, running := make(chan answer), 0
	defer func() {
		cancel()
		for ; running > 0; running-- {
			<-answers
		}
	}()
	slow := time.NewTimer(f.slow)
	defer slow.Stop()
	for {
		if len(order) > 0 && running < perPeer && ctx.Err() == nil {
			id := order[0]
			order = order[1:]
			running++
			go func() {
				data, err := f.ask.bytes(ctx, id, "blob", ref)
				answers <- answer{id, data, err}
			}()
			slow.Reset(f.slow)
		}
		if running == 0 {
			return nil, false
		}
		select {
		case <-slow.C:
		case a := <-answers:
			running--
			switch {
			case a.err == nil:
				f.got(a.peer, ref.Length)
				return a.data, true
			case isLie(a.err):
				liars[a.peer] = true
				f.lied(a.peer, ref.Digest, a.err)
			case !errors.Is(a.err, errLacks) && ctx.Err() == nil:
				f.log.Debug("peer fails", "peer", a.peer.Short(), "blob", ref.Digest.Short(), "err", a.err)
			}
		}
	}
}

// blobOrder is the order in which peers are asked for a blob: some others
// first, to spare the origins, then the origins, which have it, then the rest.
func blobOrder(peers []Peer, liars map[bundle.NodeID]bool) []bundle.NodeID {
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	var first, origins, rest []bundle.NodeID
	for _, p := range peers {
		switch {
		case liars[p.ID]:
		case p.Origin:
			origins = append(origins, p.ID)
		case len(first) < perPeer:
			first = append(first, p.ID)
		default:
			rest = append(rest, p.ID)
		}
	}
	return append(append(first, origins...), rest...)
}

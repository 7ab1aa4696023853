package swarm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"moult/store/bundle"
)

// Assembly is where a fetch puts what it gets. Its methods may be called
// concurrently.
type Assembly interface {
	// Missing returns the chunks that are still to be had, each once.
	Missing() []bundle.Chunk
	// Put stores a chunk after it has verified it.
	Put(digest bundle.Digest, data []byte) error
	Progress() (have, total int64)
}

// FetcherOptions of NewFetcher. The zero value is good.
type FetcherOptions struct {
	// Log receives what peers did wrong; nil is silent.
	Log *slog.Logger
	// BytesPerSecond bounds what all fetches together ask for; 0 is no bound.
	BytesPerSecond int64
	// Progress is called after each chunk of Fetch, on Fetch's goroutine.
	Progress func(artifact bundle.Digest, have, total int64)
	// Report is called, on a fetch's goroutine, when a peer has sent what no
	// honest peer sends.
	Report func(peer bundle.NodeID, err error)
}

// Fetcher fetches artifacts and blobs from peers. Its methods may be called
// concurrently.
type Fetcher struct {
	ask      asker
	log      *slog.Logger
	limit    *limiter
	progress func(bundle.Digest, int64, int64)
	report   func(bundle.NodeID, error)
	// slow is slowAfter, except in tests.
	slow time.Duration

	// mu guards the following.
	mu    sync.Mutex
	stats map[bundle.NodeID]int64
}

// NewFetcher returns a fetcher that asks peers.
func NewFetcher(peers Peers, o FetcherOptions) *Fetcher {
	f := &Fetcher{ask: asker{peers: peers}, log: o.Log, limit: newLimiter(o.BytesPerSecond),
		progress: o.Progress, report: o.Report, slow: slowAfter, stats: map[bundle.NodeID]int64{}}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.progress == nil {
		f.progress = func(bundle.Digest, int64, int64) {}
	}
	if f.report == nil {
		f.report = func(bundle.NodeID, error) {}
	}
	return f
}

// Stats returns how many bytes of chunks and blobs, verified and uncompressed,
// each peer has given since NewFetcher.
func (f *Fetcher) Stats() map[bundle.NodeID]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.stats)
}

func (f *Fetcher) got(peer bundle.NodeID, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats[peer] += n
}

func (f *Fetcher) lied(peer bundle.NodeID, about bundle.Digest, err error) {
	f.log.Warn("peer lied", "peer", peer.Short(), "about", about.Short(), "err", err)
	f.report(peer, err)
}

// Fetch puts every missing chunk of an artifact into asm. It returns when all
// are there; or with the error of asm, when that cannot take a chunk (a full
// disk); or with ctx's. It waits for ever for a chunk that nobody has. What has
// been put stays, so a later Fetch goes on from there.
func (f *Fetcher) Fetch(ctx context.Context, a bundle.Artifact, asm Assembly) error {
	// A chunk can get lost again when the disk under asm is bad.
	for range 3 {
		if len(asm.Missing()) == 0 {
			return nil
		}
		if err := newFetch(f, a, asm).run(ctx); err != nil {
			return fmt.Errorf("fetch artifact %s: %w", a.Digest.Short(), err)
		}
	}
	if n := len(asm.Missing()); n > 0 {
		return fmt.Errorf("fetch artifact %s: %d chunks were put and are missing again: is the disk in order?", a.Digest.Short(), n)
	}
	return nil
}

// fetch is one run of Fetch. All of it belongs to the goroutine of run; the
// requests run on their own and send it answers.
type fetch struct {
	*Fetcher
	art     bundle.Artifact
	asm     Assembly
	plan    *Planner
	rng     *rand.Rand
	index   map[bundle.Digest]int
	near    map[bundle.NodeID]*neighbour
	started map[Ask]time.Time // and not yet slow
	answers chan answer
	running int
	refresh time.Time // when to look who the peers are
}

// neighbour is a peer that this fetch deals with.
type neighbour struct {
	peer Peer
	// askAt is when to ask what it has, every how long that goes on.
	askAt  time.Time
	every  time.Duration
	asking bool
	// rest is how long it rested last, until when it rests; zero: it does not.
	rest  time.Duration
	until time.Time
}

// answer is how a request ended: have, where it asked for that, or else a chunk.
type answer struct {
	isHave bool
	ask    Ask // Chunk unset for have
	bits   []byte
	err    error
	local  error // of the assembly: the end of the fetch
}

func newFetch(f *Fetcher, a bundle.Artifact, asm Assembly) *fetch {
	x := &fetch{Fetcher: f, art: a, asm: asm, rng: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		index: make(map[bundle.Digest]int, len(a.Chunks)), near: map[bundle.NodeID]*neighbour{},
		started: map[Ask]time.Time{}, answers: make(chan answer)}
	for i, c := range a.Chunks {
		if _, twice := x.index[c.Digest]; !twice {
			x.index[c.Digest] = i
		}
	}
	x.plan = NewPlanner(len(a.Chunks), x.missing(), x.rng)
	return x
}

func (x *fetch) missing() []int {
	var is []int
	for _, c := range x.asm.Missing() {
		if i, ok := x.index[c.Digest]; ok {
			is = append(is, i)
		}
	}
	return is
}

func (x *fetch) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for x.running > 0 {
			<-x.answers
			x.running--
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for x.plan.Left() > 0 {
		timer.Reset(time.Until(x.step(ctx, time.Now())))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case a := <-x.answers:
			x.running--
			if err := x.take(a, time.Now()); err != nil {
				return err
			}
		}
	}
	return nil
}

// step starts whatever is due, and returns when something will be due next.
func (x *fetch) step(ctx context.Context, now time.Time) time.Time {
	if !now.Before(x.refresh) {
		x.meet(now)
	}
	next := x.refresh
	soon := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	for id, n := range x.near {
		if !n.until.IsZero() {
			if now.Before(n.until) {
				soon(n.until)
				continue
			}
			n.until = time.Time{}
			x.plan.Wake(id)
		}
		if n.asking || x.plan.Banned(id) || x.plan.Complete(id) {
			continue
		}
		if now.Before(n.askAt) {
			soon(n.askAt)
			continue
		}
		x.askHave(ctx, n)
	}
	for ask, at := range x.started {
		if t := at.Add(x.slow); now.Before(t) {
			soon(t)
			continue
		}
		delete(x.started, ask)
		x.plan.Slow(ask)
	}
	if d := x.limit.delay(now); d > 0 {
		soon(now.Add(d))
		return next
	}
	for _, ask := range x.plan.Next() {
		x.limit.take(now, int(x.art.Chunks[ask.Chunk].Length))
		x.started[ask] = now
		soon(now.Add(x.slow))
		x.askChunk(ctx, ask)
	}
	return next
}

// meet looks who the peers are and chooses some of them: those that are of
// use stay, the others' places go to peers by lot. Origins are always among them.
func (x *fetch) meet(now time.Time) {
	x.refresh = now.Add(refreshEvery)
	peers := x.ask.peers.Peers()
	x.rng.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	var chosen []Peer
	near := map[bundle.NodeID]*neighbour{}
	choose := func(match func(Peer) bool) {
		for _, p := range peers {
			if len(chosen) >= maxNeighbours || near[p.ID] != nil || x.plan.Banned(p.ID) || !match(p) {
				continue
			}
			n := x.near[p.ID]
			if n == nil {
				n = &neighbour{every: haveFirst}
			}
			n.peer = p
			near[p.ID] = n
			chosen = append(chosen, p)
		}
	}
	choose(func(p Peer) bool { return p.Origin })
	choose(func(p Peer) bool { return x.plan.Useful(p.ID) })
	choose(func(Peer) bool { return true })
	x.near = near
	x.plan.SetPeers(chosen)
	if len(chosen) == 0 {
		x.refresh = now.Add(refreshEvery / 10)
	}
	// Somebody else may have put something.
	left := make(map[int]bool, x.plan.Left())
	for _, i := range x.missing() {
		left[i] = true
	}
	for i := range x.art.Chunks {
		if !left[i] {
			x.plan.Have(i)
		}
	}
}

func (x *fetch) askHave(ctx context.Context, n *neighbour) {
	n.asking = true
	x.running++
	id := n.peer.ID
	go func() {
		bits, err := x.ask.have(ctx, id, x.art.Digest, len(x.art.Chunks))
		x.answers <- answer{isHave: true, ask: Ask{Peer: id}, bits: bits, err: err}
	}()
}

func (x *fetch) askChunk(ctx context.Context, ask Ask) {
	x.running++
	go func() {
		c := x.art.Chunks[ask.Chunk]
		data, err := x.ask.bytes(ctx, ask.Peer, "chunk", c)
		a := answer{ask: ask, err: err}
		if err == nil {
			a.local = x.asm.Put(c.Digest, data)
		}
		x.answers <- a
	}()
}

// take learns from an answer. It returns an error only where the fetch cannot
// go on.
func (x *fetch) take(a answer, now time.Time) error {
	n := x.near[a.ask.Peer] // nil when it has left meanwhile
	if n == nil {
		n = &neighbour{}
	}
	if a.isHave {
		n.asking = false
		x.takeHave(a, n, now)
		return nil
	}
	_, quick := x.started[a.ask]
	delete(x.started, a.ask)
	switch {
	case a.local != nil:
		return a.local
	case a.err == nil:
		n.rest = 0
		x.got(a.ask.Peer, x.art.Chunks[a.ask.Chunk].Length)
		x.plan.Done(a.ask, quick)
		have, total := x.asm.Progress()
		x.progress(x.art.Digest, have, total)
	case errors.Is(a.err, errLacks):
		x.plan.Lacks(a.ask)
	default:
		x.plan.Failed(a.ask)
		x.punish(a.ask.Peer, n, a.err, now)
	}
	return nil
}

func (x *fetch) takeHave(a answer, n *neighbour, now time.Time) {
	switch {
	case a.err == nil:
		n.rest = 0
		if x.plan.SetHave(a.ask.Peer, a.bits) > 0 {
			n.every = haveFirst
		} else {
			n.every = min(n.every*3/2, haveLast)
		}
	case errors.Is(a.err, errLacks):
		x.plan.SetHave(a.ask.Peer, nil)
		n.every = min(n.every*3/2, haveLast)
	default:
		n.every = min(n.every*3/2, haveLast)
		x.punish(a.ask.Peer, n, a.err, now)
	}
	n.askAt = now.Add(x.jitter(n.every))
}

// punish keeps a peer from being asked: for ever if it lied, for a while if it
// failed.
func (x *fetch) punish(id bundle.NodeID, n *neighbour, err error, now time.Time) {
	switch {
	case isLie(err):
		if !x.plan.Banned(id) {
			x.plan.Ban(id)
			x.lied(id, x.art.Digest, err)
		}
		return
	case errors.Is(err, errBusy):
		n.rest = restFirst
	case n.until.IsZero(): // of several requests that fail at once, one counts
		n.rest = min(cmp.Or(2*n.rest, restFirst), restLast)
		x.log.Debug("peer fails", "peer", id.Short(), "artifact", x.art.Digest.Short(), "err", err, "rest", n.rest)
	}
	n.until = now.Add(x.jitter(n.rest))
	x.plan.Rest(id)
}

// jitter returns between three and five quarters of d, so that peers do not
// keep time with each other.
func (x *fetch) jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(x.rng.Int64N(int64(d)/2+1))
}

package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/store/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Source and, for its one artifact, an Assembly.
type memory struct {
	art   bundle.Artifact
	mu    sync.Mutex
	has   map[bundle.Digest][]byte
	blobs map[bundle.Digest][]byte
	full  error // what Put returns
}

func newMemory(a bundle.Artifact) *memory {
	return &memory{art: a, has: map[bundle.Digest][]byte{}, blobs: map[bundle.Digest][]byte{}}
}

func (m *memory) Have(d bundle.Digest) ([]byte, int, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d != m.art.Digest || len(m.has) == 0 {
		return nil, 0, false
	}
	return bitsOf(len(m.art.Chunks), func(i int) bool { return m.has[m.art.Chunks[i].Digest] != nil }), len(m.art.Chunks), true
}

func (m *memory) Chunk(d bundle.Digest) ([]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.has[d]
	return bytes.Clone(data), ok, nil
}

func (m *memory) Blob(d bundle.Digest) ([]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.blobs[d]
	return bytes.Clone(data), ok, nil
}

func (m *memory) Missing() []bundle.Chunk {
	m.mu.Lock()
	defer m.mu.Unlock()
	var cs []bundle.Chunk
	for _, c := range m.art.Chunks {
		if m.has[c.Digest] == nil && !slices.Contains(cs, c) {
			cs = append(cs, c)
		}
	}
	return cs
}

func (m *memory) Put(d bundle.Digest, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full != nil {
		return m.full
	}
	if bundle.Sum(data) != d {
		return errors.New("unverified bytes")
	}
	m.has[d] = data
	return nil
}

func (m *memory) Progress() (have, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.art.Chunks {
		if m.has[c.Digest] != nil {
			have += c.Length
		}
	}
	return have, m.art.Length
}

// world is some peers behind real HTTP servers.
type world struct {
	t    testing.TB
	mu   sync.Mutex
	urls map[bundle.NodeID]string
	list []Peer
	http *http.Client
}

func newWorld(t testing.TB) *world {
	tr := &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &world{t: t, urls: map[bundle.NodeID]string{}, http: &http.Client{Transport: tr}}
}

func (w *world) add(n int, origin bool, h http.Handler) bundle.NodeID {
	s := httptest.NewServer(h)
	w.t.Cleanup(s.Close)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.urls[id(n)] = s.URL
	w.list = append(w.list, Peer{ID: id(n), Origin: origin})
	return id(n)
}

// view is the world as one of the peers sees it: without itself.
type view struct {
	*world
	self bundle.NodeID
}

func (w *world) from(n int) view { return view{w, id(n)} }

func (v view) Peers() []Peer {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(v.list), func(p Peer) bool { return p.ID == v.self })
}

func (v view) Get(ctx context.Context, peer bundle.NodeID, path string) (*http.Response, error) {
	v.mu.Lock()
	url := v.urls[peer]
	v.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
	if err != nil {
		return nil, err
	}
	return v.http.Do(req)
}

// software makes an artifact of n chunks of size bytes, every second of them
// compressible and one of them twice, and a memory that has it.
func software(n, size int) (bundle.Artifact, *memory) {
	rng := rand.NewChaCha8([32]byte{byte(n)})
	var a bundle.Artifact
	var whole []byte
	m := newMemory(a)
	for i := range n {
		data := make([]byte, size+i%7)
		if i%2 == 0 {
			_, _ = rng.Read(data)
		} else {
			copy(data, fmt.Sprintf("chunk %d ", i/4)) // 4k+1 and 4k+3 are the same where their lengths are
		}
		c := bundle.Chunk{Digest: bundle.Sum(data), Length: int64(len(data))}
		a.Chunks = append(a.Chunks, c)
		a.Length += c.Length
		m.has[c.Digest] = data
		whole = append(whole, data...)
	}
	a.Digest = bundle.Sum(whole)
	m.art = a
	return a, m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestSwarmOfFetchers(t *testing.T) {
	const fetchers = 4
	a, seed := software(120, 32<<10)
	w := newWorld(t)
	// The seed's line is the narrow place: what it sends twice is lost time.
	w.add(0, true, NewServer(seed, ServerOptions{BytesPerSecond: 8 << 20}))
	var ms []*memory
	for i := range fetchers {
		ms = append(ms, newMemory(a))
		w.add(i+1, false, NewServer(ms[i], ServerOptions{}))
	}
	var wg sync.WaitGroup
	fs := make([]*Fetcher, fetchers)
	for i := range fs {
		calls := 0
		fs[i] = NewFetcher(w.from(i+1), FetcherOptions{
			Progress: func(d bundle.Digest, have, total int64) {
				if calls++; d != a.Digest || have > total || total != a.Length {
					t.Errorf("progress %s %d of %d", d.Short(), have, total)
				}
			},
			Report: func(peer bundle.NodeID, err error) { t.Errorf("%s is called a liar: %v", peer.Short(), err) },
		})
		wg.Go(func() {
			if err := fs[i].Fetch(within(t), a, ms[i]); err != nil {
				t.Error(err)
			}
			if calls == 0 {
				t.Error("no progress")
			}
		})
	}
	wg.Wait()
	var fromSeed, all int64
	for i, f := range fs {
		if len(ms[i].Missing()) > 0 {
			t.Errorf("fetcher %d lacks %d", i, len(ms[i].Missing()))
		}
		for peer, n := range f.Stats() {
			all += n
			if peer == id(0) {
				fromSeed += n
			}
		}
	}
	t.Logf("%d KiB, %d %% of them from the seed", all>>10, 100*fromSeed/all)
	if fromSeed > all*6/10 {
		t.Errorf("%d of %d bytes came from the seed", fromSeed, all)
	}
}

// misbehaving wraps a good server for some of what it is asked.
func misbehaving(good http.Handler, bad func(w http.ResponseWriter, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/have") {
			good.ServeHTTP(w, r)
			return
		}
		bad(w, r)
	})
}

// after lets a good server send chunks only when open is closed: a test that
// waits for something else to happen first.
func after(open <-chan struct{}, good http.Handler) http.Handler {
	return misbehaving(good, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-open:
			good.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

func TestLiarsAreDroppedAndReported(t *testing.T) {
	a, seed := software(30, 8<<10)
	blob := []byte("rules")
	seed.blobs[bundle.Sum(blob)] = blob
	good := NewServer(seed, ServerOptions{})
	size := a.Chunks[0].Length
	bomb := good.encoder().EncodeAll(make([]byte, 16<<20), nil)
	for name, bad := range map[string]func(w http.ResponseWriter, r *http.Request){
		"wrong bytes": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, size)) },
		"empty":       func(w http.ResponseWriter, r *http.Request) {},
		"too long":    func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 3*size)) },
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		},
		"endless zstd": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "zstd")
			_, _ = w.Write(bomb)
		},
		"not zstd": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "zstd")
			_, _ = io.WriteString(w, "plain")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			liar := w.add(1, false, misbehaving(good, bad))
			found := make(chan struct{})
			w.add(2, true, after(found, good))
			var reported []bundle.NodeID
			f := NewFetcher(w.from(9), FetcherOptions{Report: func(p bundle.NodeID, err error) {
				if reported = append(reported, p); len(reported) == 1 {
					close(found)
				}
			}})
			m := newMemory(a)
			must(t, f.Fetch(within(t), a, m))
			if !slices.Equal(reported, []bundle.NodeID{liar}) {
				t.Errorf("reported %v", reported)
			}
			if s := f.Stats(); s[liar] != 0 || s[id(2)] == 0 {
				t.Errorf("stats %v", s)
			}
			data, err := f.FetchBlob(within(t), bundle.Chunk{Digest: bundle.Sum(blob), Length: int64(len(blob))})
			if string(data) != "rules" || err != nil || f.Stats()[liar] != 0 {
				t.Errorf("blob %q %v", data, err)
			}
		})
	}
}

func TestLyingAboutWhatItHas(t *testing.T) {
	a, seed := software(30, 1<<10)
	w := newWorld(t)
	good := NewServer(seed, ServerOptions{})
	liar := w.add(1, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }))
	boaster := w.add(2, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/have") {
			good.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	found := make(chan struct{})
	w.add(3, true, after(found, good))
	reported := map[bundle.NodeID]bool{}
	f := NewFetcher(w.from(9), FetcherOptions{Report: func(p bundle.NodeID, err error) {
		if !reported[p] && p == liar {
			close(found)
		}
		reported[p] = true
	}})
	must(t, f.Fetch(within(t), a, newMemory(a)))
	if !reported[liar] || reported[boaster] {
		t.Errorf("reported %v", reported)
	}
}

// TestAFailingPeerIsNoLiar: what a broken line does is not held against a peer.
func TestAFailingPeerIsNoLiar(t *testing.T) {
	a, seed := software(20, 64<<10)
	w := newWorld(t)
	good := NewServer(seed, ServerOptions{})
	var mu sync.Mutex
	broken := 6
	w.add(1, false, misbehaving(good, func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		broken--
		n := broken
		mu.Unlock()
		if n < 0 {
			good.ServeHTTP(rw, r)
			return
		}
		switch n % 3 {
		case 0: // cut off in the middle
			rw.Header().Set("Content-Length", fmt.Sprint(a.Chunks[0].Length))
			_, _ = rw.Write(make([]byte, 1000))
			panic(http.ErrAbortHandler)
		case 1:
			http.Error(rw, "out of order", http.StatusInternalServerError)
		case 2:
			http.Error(rw, "busy", http.StatusServiceUnavailable)
		}
	}))
	f := NewFetcher(w.from(9), FetcherOptions{Report: func(p bundle.NodeID, err error) { t.Errorf("reported: %v", err) }})
	must(t, f.Fetch(within(t), a, newMemory(a)))
}

// TestSlowPeerDoesNotHoldUpTheRest: a peer that never answers for chunks.
func TestSlowPeerDoesNotHoldUpTheRest(t *testing.T) {
	a, seed := software(20, 4<<10)
	blob := []byte("rules")
	seed.blobs[bundle.Sum(blob)] = blob
	w := newWorld(t)
	good := NewServer(seed, ServerOptions{})
	stop := make(chan struct{})
	var once sync.Once
	slow := w.add(1, false, misbehaving(good, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-stop:
		}
	}))
	t.Cleanup(func() { once.Do(func() { close(stop) }) })
	w.add(2, true, good)
	f := NewFetcher(w.from(9), FetcherOptions{})
	f.slow = 50 * time.Millisecond
	must(t, f.Fetch(within(t), a, newMemory(a)))
	if s := f.Stats(); s[slow] != 0 {
		t.Errorf("stats %v", s)
	}
	data, err := f.FetchBlob(within(t), bundle.Chunk{Digest: bundle.Sum(blob), Length: int64(len(blob))})
	if string(data) != "rules" || err != nil {
		t.Errorf("blob %q %v", data, err)
	}
}

func TestCancelAndResume(t *testing.T) {
	a, seed := software(60, 8<<10)
	w := newWorld(t)
	server := NewServer(seed, ServerOptions{})
	w.add(1, true, server)
	m := newMemory(a)
	ctx, cancel := context.WithCancel(within(t))
	f := NewFetcher(w.from(9), FetcherOptions{Progress: func(_ bundle.Digest, have, total int64) {
		if have > total/3 {
			cancel()
		}
	}})
	if err := f.Fetch(ctx, a, m); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	have, _ := m.Progress()
	if have == 0 || have == a.Length {
		t.Fatalf("%d of %d bytes at cancelling", have, a.Length)
	}
	first := f.Stats()[id(1)]
	f = NewFetcher(w.from(9), FetcherOptions{})
	must(t, f.Fetch(within(t), a, m))
	var plain int64
	seen := map[bundle.Digest]bool{}
	for _, c := range a.Chunks {
		if !seen[c.Digest] {
			plain += c.Length
		}
		seen[c.Digest] = true
	}
	// What was on its way when the first fetch ended may have come twice.
	if again := f.Stats()[id(1)]; again > plain-first+perOrigin*9<<10 {
		t.Errorf("resumed fetch took %d bytes after %d of %d", again, first, plain)
	}
	if server.Sent() >= first+f.Stats()[id(1)] {
		t.Errorf("%d bytes sent: nothing was compressed", server.Sent())
	}
	must(t, f.Fetch(within(t), a, m)) // nothing to do
}

func TestWaitsForWhatNobodyHasYet(t *testing.T) {
	a, seed := software(10, 1<<10)
	w := newWorld(t)
	late := newMemory(a)
	w.add(1, false, NewServer(late, ServerOptions{}))
	f := NewFetcher(w.from(9), FetcherOptions{})
	m := newMemory(a)
	done := make(chan error, 1)
	go func() { done <- f.Fetch(within(t), a, m) }()
	blob := []byte("late")
	blobDone := make(chan error, 1)
	go func() {
		_, err := f.FetchBlob(within(t), bundle.Chunk{Digest: bundle.Sum(blob), Length: 4})
		blobDone <- err
	}()
	for d, data := range seed.has {
		must(t, late.Put(d, data))
	}
	late.mu.Lock()
	late.blobs[bundle.Sum(blob)] = blob
	late.mu.Unlock()
	must(t, <-done)
	must(t, <-blobDone)

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := f.FetchBlob(ctx, bundle.Chunk{Digest: bundle.Sum(nil), Length: 7}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	other, _ := software(11, 1<<10)
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := f.Fetch(ctx, other, newMemory(other)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFullDiskEndsTheFetch(t *testing.T) {
	a, seed := software(30, 1<<10)
	w := newWorld(t)
	w.add(1, true, NewServer(seed, ServerOptions{}))
	m := newMemory(a)
	m.full = errors.New("no space left on device")
	if err := NewFetcher(w.from(9), FetcherOptions{}).Fetch(within(t), a, m); !errors.Is(err, m.full) {
		t.Fatalf("got %v", err)
	}
}

func TestManyPeers(t *testing.T) {
	a, seed := software(30, 1<<10)
	w := newWorld(t)
	nobody := http.NotFoundHandler()
	for i := range 3 * maxNeighbours {
		w.add(i, false, nobody)
	}
	w.add(1000, true, NewServer(seed, ServerOptions{}))
	must(t, NewFetcher(w.from(2000), FetcherOptions{}).Fetch(within(t), a, newMemory(a)))
}

func TestServerAnswers(t *testing.T) {
	a, seed := software(9, 1<<10)
	seed.blobs[bundle.Sum(nil)] = []byte{}
	s := NewServer(seed, ServerOptions{MaxConcurrent: 1})
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", havePath(a.Digest), 200},
		{"GET", havePath(bundle.Sum(nil)), 404},
		{"GET", Path + "have", 404}, // an empty digest is no artifact's
		{"GET", Path + "have?digest=sha256:zz", 400},
		{"GET", Path + "chunk/" + a.Chunks[0].Digest.Hex(), 200},
		{"GET", Path + "chunk/" + a.Digest.Hex(), 404},
		{"GET", Path + "chunk/..%2f..%2fetc%2fpasswd", 400},
		{"GET", Path + "chunk/" + strings.ToUpper(a.Chunks[0].Digest.Hex()), 400},
		{"GET", Path + "blob/" + bundle.Sum(nil).Hex(), 200},
		{"GET", Path + "blob/" + a.Chunks[0].Digest.Hex(), 404},
		{"GET", Path + "secrets", 404},
		{"GET", "/", 404},
		{"POST", havePath(a.Digest), 405},
	} {
		r := httptest.NewRecorder()
		s.ServeHTTP(r, httptest.NewRequest(c.method, c.path, nil))
		if r.Code != c.status {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, r.Code, c.status, r.Body)
		}
	}
	only := s.places.enter(Caller{}, func() { t.Error("it was shed") })
	defer s.places.leave(only)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRecorder()
	s.ServeHTTP(r, httptest.NewRequestWithContext(ctx, "GET", Path+"chunk/"+a.Chunks[0].Digest.Hex(), nil))
	if r.Code != 503 || r.Header().Get("Retry-After") == "" {
		t.Errorf("busy: %d", r.Code)
	}
}

func TestLimiter(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLimiter(1000)
	for i, want := range []time.Duration{0, 500 * time.Millisecond, time.Second} {
		if got := l.take(now, 500); got != want {
			t.Errorf("take %d: wait %v, want %v", i, got, want)
		}
	}
	if got := l.delay(now.Add(time.Second)); got != 500*time.Millisecond {
		t.Errorf("delay %v", got)
	}
	// What was not used in the past is not saved up.
	if got := l.take(now.Add(time.Hour), 5000); got != 0 {
		t.Errorf("wait %v", got)
	}
	if got := l.take(now.Add(time.Hour), 1); got != 5*time.Second {
		t.Errorf("wait %v", got)
	}
	if newLimiter(0).take(now, 1<<40) != 0 || newLimiter(0).delay(now) != 0 {
		t.Error("no limit limits")
	}
}

package swarm

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"moult/store/bundle"
)

// Path is where a Server's URLs begin.
const Path = "/moult/v1/swarm/"

// Source is what a Server serves from. Its methods may be called concurrently;
// what they return has been verified and is the caller's. An error is as good
// as not having it, and is logged.
type Source interface {
	// Have tells which of an artifact's chunks are here, as the protocol does.
	Have(artifact bundle.Digest) (bits []byte, chunks int, ok bool)
	Chunk(digest bundle.Digest) (data []byte, ok bool, err error)
	Blob(digest bundle.Digest) (data []byte, ok bool, err error)
}

// ServerOptions of NewServer. The zero value is good.
type ServerOptions struct {
	// Log receives what the Source could not read; nil is silent.
	Log *slog.Logger
	// BytesPerSecond bounds what is sent; 0 is no bound.
	BytesPerSecond int64
	// MaxConcurrent is how many chunks and blobs are sent at once; 0 is 16.
	MaxConcurrent int
	// Caller says who sent a request, so that each has its share; nil takes all for one.
	Caller func(*http.Request) Caller
}

// Server is the http.Handler for everything below Path.
type Server struct {
	source Source
	log    *slog.Logger
	limit  *limiter
	places places
	caller func(*http.Request) Caller
	sent   atomic.Int64
	// encoder is made when the first chunk is asked for: it is large.
	encoder func() *zstd.Encoder
}

// NewServer returns a server of what source has.
func NewServer(source Source, o ServerOptions) *Server {
	s := &Server{source: source, log: o.Log, limit: newLimiter(o.BytesPerSecond), caller: o.Caller}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.caller == nil {
		s.caller = func(*http.Request) Caller { return Caller{} }
	}
	if s.places.total = o.MaxConcurrent; s.places.total <= 0 {
		s.places.total = serveAtOnce
	}
	s.encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(fmt.Sprintf("swarm: zstd refuses constant options: %v", err))
		}
		return e
	})
	return s
}

// Sent returns how many bytes of bodies have been sent, as they were on the
// wire.
func (s *Server) Sent() int64 { return s.sent.Load() }

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	what, ok := strings.CutPrefix(r.URL.Path, Path)
	kind, text, _ := strings.Cut(what, "/")
	switch {
	case ok && kind == "have" && text == "":
		s.have(w, r)
	case ok && kind == "chunk":
		s.send(w, r, "sha256:"+text, s.source.Chunk)
	case ok && kind == "blob":
		s.send(w, r, "sha256:"+text, s.source.Blob)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) have(w http.ResponseWriter, r *http.Request) {
	digest, err := bundle.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	bits, _, ok := s.source.Have(digest)
	if !ok {
		http.Error(w, "nothing of that artifact is here", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(bits)))
	if _, err := w.Write(bits); err == nil {
		s.sent.Add(int64(len(bits)))
	}
}

// send answers with what get returns, compressed where that is smaller.
func (s *Server) send(w http.ResponseWriter, r *http.Request, text string, get func(bundle.Digest) ([]byte, bool, error)) {
	digest, err := bundle.ParseDigest(text)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	rc := http.NewResponseController(w)
	defer func() {
		if ctx.Err() == nil { // else its connection is to end now, whatever it has not read
			// Not every ResponseWriter has deadlines; then its server has to know.
			_ = rc.SetWriteDeadline(time.Time{})
		}
	}()
	place := s.places.enter(s.caller(r), func() {
		cancel() // first: write looks at it after each deadline of its own
		_ = rc.SetWriteDeadline(time.Unix(1, 0))
	})
	defer s.places.leave(place)
	if !s.await(ctx, place) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	data, ok, err := get(digest)
	if err != nil {
		s.log.Warn("cannot be served", "digest", digest, "err", err)
	}
	if !ok {
		http.Error(w, "not here", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	if small := s.encoder().EncodeAll(data, nil); len(small) < len(data) {
		data = small
		h.Set("Content-Encoding", "zstd")
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	s.write(ctx, w, rc, data)
}

// write sends data no faster than the limit; a receiver that is too slow is cut
// off, as it holds one of the places. After an error the receiver notices that
// the length is wrong.
func (s *Server) write(ctx context.Context, w http.ResponseWriter, rc *http.ResponseController, data []byte) {
	for len(data) > 0 {
		n := len(data)
		if s.limit != nil {
			n = min(n, pieceBytes)
		}
		if err := s.limit.wait(ctx, n); err != nil {
			return
		}
		_ = rc.SetWriteDeadline(time.Now().Add(transferTime(int64(n))))
		if ctx.Err() != nil {
			return
		}
		if _, err := w.Write(data[:n]); err != nil {
			return
		}
		s.sent.Add(int64(n))
		data = data[n:]
	}
}

// await reports whether a place was had.
func (s *Server) await(ctx context.Context, p *place) bool {
	select {
	case <-p.given:
		return true
	default:
	}
	t := time.NewTimer(serveWait)
	defer t.Stop()
	select {
	case <-p.given:
		return true
	case <-t.C:
		return s.places.insist(p)
	case <-ctx.Done():
		return false
	}
}

// transferTime is how long the transfer of n bytes may take.
func transferTime(n int64) time.Duration {
	return transferGrace + time.Duration(n)*time.Second/transferRate
}

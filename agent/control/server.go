package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// SocketName is the socket's file name in an agent's data folder.
const SocketName = "moult.sock"

const (
	injectPath   = "/v1/inject"
	rehearsePath = "/v1/rehearse"
	replacePath  = "/v1/replace"
)

// Names of the parts of an injection, in this order.
const (
	partSigned = "signed"
	partBundle = "bundle"
)

// Server serves a Backend.
type Server struct {
	http *http.Server
	done chan struct{}
}

// Serve answers on l, which it owns from now on, until Close. Callers by TCP must call
// the machine's own address.
func Serve(l net.Listener, b Backend, log *slog.Logger) *Server {
	return ServeToken(l, b, "", log)
}

// ServeToken is Serve for callers that have the token, at whatever address.
func ServeToken(l net.Listener, b Backend, token string, log *slog.Logger) *Server {
	return ServeNoted(l, b, token, nil, log)
}

// ServeNoted is that, with each call noted that changes something, once it has been carried
// out and before it is answered. A call that guard refuses does not get so far.
func ServeNoted(l net.Listener, b Backend, token string, note func(Deed), log *slog.Logger) *Server {
	s := &Server{
		http: &http.Server{
			Handler:           guard{token, routes(b, note)},
			ConnContext:       withUID,
			ReadHeaderTimeout: readHeaderTimeout,
			IdleTimeout:       idleTimeout,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("control API ended", "err", err)
		}
	}()
	return s
}

// Close lets the calls in flight end for up to a second, then ends them. It
// may be called more than once.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	<-s.done
	return err
}

// ListenUnix listens on a unix socket that only the owner may use. A socket
// file that a dead agent left is replaced: the caller holds the data folder's
// lock, so no living agent can be behind it. On a disk that is mounted read-only another
// socket stands in for it, which clients find (store/standin).
func ListenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("control socket %s: path of %d bytes, the system takes %d: choose a shorter data folder", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return listenStandIn(path, fmt.Errorf("control socket: %w", err))
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return listenStandIn(path, fmt.Errorf("control socket: %w", err))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	return l, nil
}

// Handler returns the API as an http.Handler. What does not come by a unix socket is
// looked at first: pages of other sites must not command an agent.
func Handler(b Backend) http.Handler { return guard{"", routes(b, nil)} }

func routes(b Backend, note func(Deed)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", reply(func(r *http.Request) (any, error) {
		return b.Status(r.Context(), r.URL.Query().Has("live"))
	}))
	mux.HandleFunc("GET /v1/members", reply(func(r *http.Request) (any, error) {
		return b.Members(r.Context())
	}))
	mux.HandleFunc("GET /v1/why", reply(func(r *http.Request) (any, error) {
		return b.Why(r.Context(), r.URL.Query().Get("node"))
	}))
	mux.HandleFunc("GET /v1/trust", reply(func(r *http.Request) (any, error) {
		return b.Trust(r.Context())
	}))
	mux.HandleFunc("GET /v1/info", reply(func(r *http.Request) (any, error) {
		return b.Info(r.Context())
	}))
	mux.HandleFunc("GET /v1/history", reply(func(r *http.Request) (any, error) {
		if q := r.URL.Query(); q.Has("node") {
			return b.HistoryOf(r.Context(), q.Get("node"))
		}
		return b.History(r.Context())
	}))
	mux.HandleFunc("GET /v1/copy", reply(func(r *http.Request) (any, error) {
		return b.StateCopy(r.Context())
	}))
	mux.HandleFunc("GET /v1/resolve", reply(func(r *http.Request) (any, error) {
		return b.Resolve(r.Context(), r.URL.Query().Get("address"))
	}))
	mux.HandleFunc("POST "+injectPath, reply(noting(note, "inject", func(r *http.Request, d *Deed) (any, error) {
		return inject(b, r, d)
	})))
	mux.HandleFunc("POST "+replacePath, reply(noting(note, "replace", func(r *http.Request, d *Deed) (any, error) {
		return replace(b, r, d)
	})))
	mux.HandleFunc("POST "+rehearsePath, func(w http.ResponseWriter, r *http.Request) { rehearse(b, w, r) })
	mux.HandleFunc("POST /v1/trust", reply(noting(note, "trust", func(r *http.Request, d *Deed) (any, error) {
		var s Signed
		if err := readJSON(r.Body, maxOrders, &s); err != nil {
			return nil, err
		}
		d.signed(s)
		return b.Accept(r.Context(), s)
	})))
	mux.HandleFunc("POST /v1/backup", reply(noting(note, "backup", func(r *http.Request, d *Deed) (any, error) {
		var q BackupRequest
		if err := readJSON(r.Body, maxDocument, &q); err != nil {
			return nil, err
		}
		d.What = []string{q.To}
		if d.By != "socket" || !filepath.IsAbs(q.To) {
			return nil, Misuse(errors.New("back up: a backup is made by the socket of the data folder, in a folder of the agent's machine that is named by its whole path"), "")
		}
		return struct{}{}, b.Backup(r.Context(), q)
	})))
	mux.HandleFunc("POST /v1/join", reply(noting(note, "join", func(r *http.Request, d *Deed) (any, error) {
		var addrs []string
		if err := readJSON(r.Body, maxDocument, &addrs); err != nil {
			return nil, err
		}
		for _, a := range addrs {
			d.say(a)
		}
		return b.Join(r.Context(), addrs)
	})))
	mux.HandleFunc("POST /v1/leave", reply(noting(note, "leave", func(r *http.Request, _ *Deed) (any, error) {
		return struct{}{}, b.Leave(r.Context())
	})))
	return mux
}

// replace hands on a program. Whoever may use the socket may start what he likes as the agent's user anyway;
// whoever reaches a TCP address may not.
func replace(b Backend, r *http.Request, d *Deed) (any, error) {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !ok || local.Network() != "unix" {
		return nil, Refused(errors.New("replace the agent: that is done on its own machine, by its socket"), "call it there, with --agent and its data folder")
	}
	var deadline time.Duration
	if text := r.URL.Query().Get("deadline"); text != "" {
		var err error
		if deadline, err = time.ParseDuration(text); err != nil || deadline <= 0 || deadline > maxTrial {
			return nil, Misuse(fmt.Errorf("replace the agent: a deadline of %.40q", text), fmt.Sprintf("give a time of at most %v, such as 2m", maxTrial))
		}
	}
	a, err := b.Replace(r.Context(), r.Body, deadline)
	if !a.Digest.IsZero() {
		d.say(a.Digest.String())
	}
	return a, err
}

// inject reads the two parts of an injection and hands them on.
func inject(b Backend, r *http.Request, d *Deed) (any, error) {
	mr, err := r.MultipartReader()
	if err != nil {
		return nil, Misuse(fmt.Errorf("read injection: %w", err), "")
	}
	var signed *Signed
	part, err := mr.NextPart()
	if err == nil && part.FormName() == partSigned {
		signed = new(Signed)
		if err := readJSON(part, maxOrders, signed); err != nil {
			return nil, err
		}
		d.signed(*signed)
		part, err = mr.NextPart()
	}
	if err != nil || part.FormName() != partBundle {
		return nil, Misuse(errors.New("read injection: it has no bundle"), "")
	}
	return b.Inject(r.Context(), part, signed)
}

func writeInjection(w *multipart.Writer, bundle io.Reader, signed *Signed) error {
	if signed != nil {
		part, err := w.CreateFormField(partSigned)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(part).Encode(signed); err != nil {
			return err
		}
	}
	part, err := w.CreateFormField(partBundle)
	if err != nil {
		return err
	}
	if _, err := io.Copy(part, bundle); err != nil {
		return err
	}
	return w.Close()
}

// rehearse answers with one line for all that is told of the rehearsal, as it comes; what
// fails before that fails as other calls do. A caller that reads no more is left: the node
// may have to go on.
func rehearse(b Backend, w http.ResponseWriter, r *http.Request) {
	began, to := false, http.NewResponseController(w)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer to.SetWriteDeadline(time.Time{}) // for what comes next by this connection
	tell := func(n RehearsalNews) {
		if ctx.Err() != nil {
			return // nobody is left to tell
		}
		if !began {
			w.Header().Set("Content-Type", "application/json")
			began = true
		}
		err := to.SetWriteDeadline(time.Now().Add(newsTimeout))
		if err == nil {
			err = json.NewEncoder(w).Encode(n)
		}
		if err == nil {
			err = to.Flush()
		}
		if err != nil {
			cancel()
		}
	}
	report, err := b.Rehearse(ctx, &prompt{body: r.Body, at: to, began: time.Now()}, tell)
	switch {
	case err == nil:
		tell(RehearsalNews{Report: &report})
	case began:
		tell(RehearsalNews{Failed: asError(err)})
	default:
		reply(func(*http.Request) (any, error) { return nil, err })(w, r)
	}
}

// prompt is a body of which each piece must come in time, and all of it by leastRate: nobody
// waits for ever for who sends.
type prompt struct {
	body  io.Reader
	at    *http.ResponseController
	began time.Time
	read  int64
}

// due is when the next piece must be here.
func (p *prompt) due(now time.Time) time.Time {
	piece, all := now.Add(newsTimeout), p.began.Add(uploadGrace+time.Duration(p.read/leastRate)*time.Second)
	if all.Before(piece) {
		return all
	}
	return piece
}

func (p *prompt) Read(b []byte) (int, error) {
	if err := p.at.SetReadDeadline(p.due(time.Now())); err != nil {
		return 0, err
	}
	n, err := p.body.Read(b)
	p.read += int64(n)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("the bundle comes too slowly, %d bytes of it in %s: send it from a file on this machine: %w", p.read, time.Since(p.began).Round(time.Second), err)
	}
	if err != nil { // at the end, too: from there on it shows that the caller has left
		err = cmp.Or(err, p.at.SetReadDeadline(time.Time{}))
	}
	return n, err
}

func reply(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			e := asError(err)
			w.WriteHeader(e.status())
			v = e
		}
		// A failing write means that the caller has gone: nobody is left to tell.
		_ = json.NewEncoder(w).Encode(v)
	}
}

func readJSON(r io.Reader, limit int64, v any) error {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return Misuse(fmt.Errorf("read request: %w", err), "")
	}
	if int64(len(data)) > limit {
		return Misuse(fmt.Errorf("read request: more than %d bytes", limit), "")
	}
	if err := json.Unmarshal(data, v); err != nil {
		return Misuse(fmt.Errorf("read request: %w", err), "")
	}
	return nil
}

package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/gossip/view"
	"moult/store/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted answers what a test puts into it. The agent itself is tested with
// real processes in cmd/moult; here it is the wire that is looked at.
type scripted struct {
	err    error
	got    string
	signed *Signed

	rehearse func(ctx context.Context, told func(RehearsalNews)) error
}

func (s *scripted) Status(_ context.Context, live bool) (Status, error) {
	return Status{Cluster: bundle.Sum([]byte("c")), Head: 3, Classes: map[bundle.Class]ClassStatus{"kv": {Total: 2}}, Alarms: []string{}, Local: local}, s.err
}
func (s *scripted) Members(context.Context) ([]Member, error) { return []Member{{Name: "n1"}}, s.err }
func (s *scripted) Why(_ context.Context, node string) (Why, error) {
	s.got = node
	return Why{Node: node}, s.err
}
func (s *scripted) Trust(context.Context) (Trust, error) {
	return Trust{Set: []byte("set"), Orders: map[bundle.Version][]byte{2: []byte("order")}}, s.err
}
func (s *scripted) History(context.Context) (History, error) {
	return History{Node: "n1", Phases: []HistoryPhase{{Phase: "held", Took: bundle.Duration(time.Second)}}}, s.err
}
func (s *scripted) HistoryOf(_ context.Context, node string) (History, error) {
	return History{Node: node, Seen: true}, s.err
}
func (s *scripted) StateCopy(context.Context) (StateCopy, error) {
	return StateCopy{Version: 3, Files: 8}, s.err
}
func (s *scripted) Info(context.Context) (Info, error) { return Info{PID: 7}, s.err }
func (s *scripted) Inject(_ context.Context, r io.Reader, signed *Signed) (Accepted, error) {
	data, err := io.ReadAll(r)
	s.got, s.signed = string(data), signed
	return Accepted{Version: 2}, errors.Join(s.err, err)
}

// Rehearse tells what it reads, and what else a test wants.
func (s *scripted) Rehearse(ctx context.Context, r io.Reader, told func(RehearsalNews)) (Rehearsal, error) {
	data, err := io.ReadAll(r)
	s.got = string(data)
	if s.rehearse != nil {
		err = errors.Join(err, s.rehearse(ctx, told))
	}
	return rehearsal, errors.Join(s.err, err)
}

var rehearsal = Rehearsal{Node: "n1", Release: 2, From: 1, Path: []bundle.Version{2}, Outcome: "failed", Reason: "r", Took: 3, Stages: []RehearsalStage{{Name: "copy", Took: 2, Files: 1, Bytes: 5}}}

func (s *scripted) Accept(_ context.Context, signed Signed) (Accepted, error) {
	s.signed = &signed
	return Accepted{Version: 2}, s.err
}
func (s *scripted) Join(_ context.Context, addrs []string) (int, error) {
	s.got = strings.Join(addrs, ",")
	return len(addrs), s.err
}
func (s *scripted) Backup(_ context.Context, b BackupRequest) error {
	s.got = b.To
	return s.err
}
func (s *scripted) Leave(context.Context) error { return s.err }
func (s *scripted) Replace(_ context.Context, r io.Reader, deadline time.Duration) (Replacing, error) {
	data, err := io.ReadAll(r)
	return Replacing{Digest: bundle.Sum(data), Deadline: bundle.Duration(deadline)}, errors.Join(err, s.err)
}
func (s *scripted) Resolve(_ context.Context, address string) (Resolved, error) {
	s.got = address
	return Resolved{Address: "127.0.0.1:7002", Peer: true, Version: 2}, s.err
}

// local has every field of what an agent says of its own node.
var local = Local{
	Name: "n1", Native: 2, Egress: Way{Kind: "proxy", Why: "connect: no cgroup"},
	Services: map[string]LocalService{"api": {Attach: Way{Kind: "steer"}, Callers: map[bundle.Version]CallCount{2: {Calls: 5}}}},
	Objects: []ObjectStatus{{
		Callers: 1, Calls: 2, Release: 2, Side: SidePast, Kind: bundle.SimulateExec, Where: InProcess, State: ObjectRestarting, Problem: "it ended",
		PID: 7, Restarts: 3, Oldest: bundle.Duration(time.Second), Observation: &ObservationStatus{Told: 1, Missed: 2, Waiting: 3, Whole: true, Problem: "p"},
		Counted: CallCount{Calls: 9, Denied: 1, Errors: 2, Open: 3, Mean: bundle.Duration(time.Millisecond), Last: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	}},
}

func serve(t *testing.T) (*scripted, *Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "moult-") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	l, err := ListenUnix(filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, SocketName)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v, want 0600", fi.Mode(), err)
	}
	b := &scripted{}
	s := Serve(l, b, slog.New(slog.DiscardHandler))
	c := NewClient(dir)
	t.Cleanup(func() {
		c.Close()
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return b, c
}

func TestRoundTrip(t *testing.T) {
	b, c := serve(t)
	ctx := t.Context()
	if s, err := c.Status(ctx, true); err != nil || s.Head != 3 || s.Classes["kv"].Total != 2 || !reflect.DeepEqual(s.Local, local) {
		t.Errorf("status: %+v, %v", s, err)
	}
	if w, err := c.Why(ctx, "a b&c"); err != nil || w.Node != "a b&c" {
		t.Errorf("why: %+v, %v", w, err)
	}
	if m, err := c.Members(ctx); err != nil || len(m) != 1 {
		t.Errorf("members: %+v, %v", m, err)
	}
	if tr, err := c.Trust(ctx); err != nil || string(tr.Set) != "set" || string(tr.Orders[2]) != "order" {
		t.Errorf("trust: %+v, %v", tr, err)
	}
	if s, err := c.StateCopy(ctx); err != nil || s.Version != 3 || s.Files != 8 {
		t.Errorf("state %+v, %v", s, err)
	}
	if i, err := c.Info(ctx); err != nil || i.PID != 7 {
		t.Errorf("info: %+v, %v", i, err)
	}
	if n, err := c.Join(ctx, []string{"x:1", "y:2"}); err != nil || n != 2 || b.got != "x:1,y:2" {
		t.Errorf("join: %d, %q, %v", n, b.got, err)
	}
	if _, err := c.Accept(ctx, Signed{Set: []byte("s")}); err != nil || string(b.signed.Set) != "s" {
		t.Errorf("accept: %+v, %v", b.signed, err)
	}
	if r, err := c.Resolve(ctx, "[::1]:70"); err != nil || r != (Resolved{Address: "127.0.0.1:7002", Peer: true, Version: 2}) || b.got != "[::1]:70" {
		t.Errorf("resolve: %+v, %q, %v", r, b.got, err)
	}
	if err := c.Leave(ctx); err != nil {
		t.Errorf("leave: %v", err)
	}
}

func TestInject(t *testing.T) {
	b, c := serve(t)
	body := strings.Repeat("bundle", 100_000)
	if _, err := c.Inject(t.Context(), strings.NewReader(body), &Signed{Set: []byte("s")}); err != nil || b.got != body || string(b.signed.Set) != "s" {
		t.Errorf("inject with order: %d bytes, %+v, %v", len(b.got), b.signed, err)
	}
	if _, err := c.Inject(t.Context(), strings.NewReader("x"), nil); err != nil || b.got != "x" || b.signed != nil {
		t.Errorf("inject without order: %q, %+v, %v", b.got, b.signed, err)
	}
	if _, err := c.Inject(t.Context(), io.MultiReader(strings.NewReader("x"), failing{}), nil); err == nil {
		t.Error("a bundle that could not be read was injected")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk") }

func TestErrorsKeepTheirKind(t *testing.T) {
	b, c := serve(t)
	for _, want := range []*Error{
		{Kind: KindMisuse, Message: "m", Hint: "h"}, {Kind: KindRefused, Message: "r"}, {Kind: KindFailed, Message: "plain"},
	} {
		b.err = want
		if want.Kind == KindFailed {
			b.err = errors.New("plain")
		}
		_, err := c.Members(t.Context())
		got, ok := errors.AsType[*Error](err)
		if !ok || *got != *want {
			t.Errorf("got %+v, want %+v", err, want)
		}
	}
}

func TestBadRequests(t *testing.T) {
	_, c := serve(t)
	for _, r := range []struct{ path, body, contentType string }{
		{"/v1/trust", "{", "application/json"},
		{"/v1/join", `{"a":1}`, "application/json"},
		{"/v1/inject", "not multipart", "text/plain"},
		{"/v1/inject", "--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"},
	} {
		err := c.call(t.Context(), http.MethodPost, r.path, r.contentType, bytes.NewReader([]byte(r.body)), &struct{}{})
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindMisuse {
			t.Errorf("POST %s %q: %v, want misuse", r.path, r.body, err)
		}
	}
}

func TestNoAgent(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "nobody.sock"))
	defer c.Close()
	_, err := c.Status(t.Context(), false)
	if e, ok := errors.AsType[*Error](err); !ok || e.Hint == "" {
		t.Errorf("got %v, want an error with a hint", err)
	}
	if _, err := ListenUnix("/" + strings.Repeat("x", maxSocketPath)); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a path that is too long: %v", err)
	}
}

// What goes on in a rehearsal comes as it happens, before what came of it.
func TestRehearse(t *testing.T) {
	b, c := serve(t)
	heard := make(chan RehearsalNews)
	b.rehearse = func(_ context.Context, told func(RehearsalNews)) error {
		told(RehearsalNews{Begins: "copy"})
		if n := <-heard; n.Begins != "copy" { // or it would wait here for ever
			t.Errorf("it hears %+v", n)
		}
		told(RehearsalNews{Ended: &rehearsal.Stages[0]})
		return nil
	}
	var last RehearsalNews
	r, err := c.Rehearse(t.Context(), strings.NewReader("a bundle"), func(n RehearsalNews) {
		if last = n; n.Begins != "" {
			heard <- n
		}
	})
	if err != nil || !reflect.DeepEqual(r, rehearsal) || b.got != "a bundle" || !reflect.DeepEqual(last.Ended, &rehearsal.Stages[0]) {
		t.Errorf("%+v, %v, of %q; at last %+v", r, err, b.got, last)
	}
	for name, began := range map[string]bool{"before anything is told": false, "after that": true} {
		b.rehearse = func(_ context.Context, told func(RehearsalNews)) error {
			if began {
				told(RehearsalNews{Begins: "copy"})
			}
			return Refused(errors.New("no"), "h")
		}
		_, err := c.Rehearse(t.Context(), strings.NewReader(""), nil)
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindRefused || e.Hint != "h" || !strings.Contains(e.Message, "no") {
			t.Errorf("what fails %s: %#v", name, err)
		}
	}
	b.rehearse = func(_ context.Context, told func(RehearsalNews)) error {
		told(RehearsalNews{Begins: "copy"})
		panic(http.ErrAbortHandler) // the agent dies
	}
	if _, err := c.Rehearse(t.Context(), strings.NewReader(""), nil); err == nil || !strings.Contains(err.Error(), "has ended before the rehearsal has") {
		t.Errorf("of an agent that ends: %v", err)
	}
}

// A rehearsal hears that nobody is left who asked for it.
func TestRehearsalLeft(t *testing.T) {
	b, c := serve(t)
	ended := make(chan error, 1)
	ctx, leave := context.WithCancel(t.Context())
	b.rehearse = func(ctx context.Context, told func(RehearsalNews)) error {
		told(RehearsalNews{Begins: "copy"})
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	if _, err := c.Rehearse(ctx, strings.NewReader("a bundle"), func(RehearsalNews) { leave() }); !errors.Is(err, context.Canceled) {
		t.Errorf("who leaves gets %v", err)
	}
	<-ended
}

// What fails without what it would have in earnest says nothing against the release.
func TestRehearsalLacks(t *testing.T) {
	for outcome, want := range map[view.Outcome]view.Outcome{
		view.RehearsalOK: view.RehearsalOK, view.RehearsalFailed: view.RehearsalUnable, view.RehearsalUnable: view.RehearsalUnable,
	} {
		one, two := Rehearsal{Outcome: outcome}, Rehearsal{Outcome: outcome, Reason: "r"}
		one.Lacks("w")
		two.Lacks("w")
		if one.Outcome != want || one.Reason != "w" || two.Outcome != want || two.Reason != "r; w" {
			t.Errorf("%s: %+v, %+v", outcome, one, two)
		}
	}
}

// TestPrompt: who sends a byte now and then does not keep others from rehearsing for ever.
func TestPrompt(t *testing.T) {
	p := prompt{began: time.Unix(0, 0)}
	now := p.began
	for ; p.due(now).After(now) && now.Sub(p.began) < time.Hour; now = now.Add(newsTimeout - time.Second) {
		p.read++
	}
	if took := now.Sub(p.began); took < uploadGrace || took > uploadGrace+2*newsTimeout {
		t.Errorf("a byte now and then is read for %s", took)
	}
	p.read = 16 << 30
	for _, since := range []time.Duration{time.Second, time.Hour} {
		if now := p.began.Add(since); p.due(now) != now.Add(newsTimeout) {
			t.Errorf("after %s it waits until %s", since, p.due(now))
		}
	}
}

package operator

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
)

// halfAgent has one of two orders, and takes what it is handed where it is not deaf.
type halfAgent struct {
	control.Backend
	trust  control.Trust
	status control.Status
	deaf   bool
}

func (b *halfAgent) Trust(context.Context) (control.Trust, error)         { return b.trust, nil }
func (b *halfAgent) Status(context.Context, bool) (control.Status, error) { return b.status, nil }
func (b *halfAgent) Info(context.Context) (control.Info, error)           { return control.Info{}, nil }
func (b *halfAgent) Accept(_ context.Context, s control.Signed) (control.Accepted, error) {
	if b.deaf {
		return control.Accepted{}, errors.New("gone")
	}
	b.trust.Set, b.trust.Members = s.Set, s.Members
	for v, data := range s.Orders {
		b.trust.Orders[v] = data
	}
	return control.Accepted{}, nil
}

// serve serves it, and returns a client.
func (b *halfAgent) serve(t *testing.T) *control.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "moult-join-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := control.ListenUnix(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := control.Serve(l, b, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { s.Close() })
	return control.NewClient(filepath.Join(dir, "s"))
}

// TestJoiningWhatIsAbortedIsConfirmed: whoever pauses is shown the joined order before it is
// signed, and one that is not confirmed is not.
func TestJoiningWhatIsAbortedIsConfirmed(t *testing.T) {
	f, first, ids := begunFolder(t)
	theirs := encoded(t)(first.Abort())
	signAll(t, f, encoded(t)(first, nil), encoded(t)(first.Retry("kv", ids[1])))
	set, err := f.Current().Set().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b := &halfAgent{trust: control.Trust{Set: set, Orders: map[bundle.Version][]byte{1: theirs}}}
	c, meant := b.serve(t), errors.New("not meant")
	pause := Change{Name: "pause", Apply: (*schedule.Order).Pause, Joins: true, Confirm: func(o *schedule.Order, _ control.Status) error {
		if o.Joined == nil || !o.Joined.Open || o.State != schedule.StateAborted || o.Serial != 3 {
			t.Errorf("asked about %+v", o)
		}
		return meant
	}}
	if _, _, err := New(f).Change(t.Context(), c, 1, pause); !errors.Is(err, meant) {
		t.Errorf("not confirmed: %v", err)
	}
	if serial, _, _ := f.LastOrder(1); serial != 2 {
		t.Errorf("signed up to serial %d, and nothing was confirmed", serial)
	}
	meant = nil
	if _, _, err := New(f).Change(t.Context(), c, 1, pause); err != nil {
		t.Error(err)
	}
	if serial, _, _ := f.LastOrder(1); serial != 3 {
		t.Errorf("signed up to serial %d", serial)
	}
}

// TestResumeAsksOfTheJoinedOrder: what was joined, and has not got to the agent that is
// asked, is not resumed on what nodes say of older metadata.
func TestResumeAsksOfTheJoinedOrder(t *testing.T) {
	f, first, ids := begunFolder(t)
	theirs := encoded(t)(first.Retry("kv", ids[0]))
	signAll(t, f, encoded(t)(first, nil), encoded(t)(first.Retry("kv", ids[1])))
	set, err := f.Current().Set().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	at := f.Current().Versions().Timestamp
	b := &halfAgent{deaf: true, trust: control.Trust{Set: set, Orders: map[bundle.Version][]byte{1: theirs}}}
	said := func(number int64) {
		b.status = control.Status{Nodes: []control.NodeStatus{{ID: ids[0], Name: "n1", Phase: "waiting", Metadata: number}, {ID: ids[1], Name: "n2", Phase: "waiting", Metadata: number}}}
	}
	said(at)
	c, o := b.serve(t), New(f)
	resume := func() error {
		_, _, err := o.Change(t.Context(), c, 1, Change{Name: "resume", Apply: (*schedule.Order).Resume})
		return err
	}
	if _, _, err := o.Change(t.Context(), c, 1, Change{Name: "pause", Apply: (*schedule.Order).Pause, Joins: true}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Fatalf("pause, and the agent has gone: %v", err)
	}
	b.deaf = false
	if err := resume(); err == nil || !strings.Contains(err.Error(), "it was handed over just now") {
		t.Fatalf("the agent had not got it: %v", err)
	}
	if err := resume(); err == nil || !strings.Contains(err.Error(), "have not said that they are up") {
		t.Fatalf("no node has got it: %v", err)
	}
	said(f.Current().Versions().Timestamp)
	if err := resume(); err != nil {
		t.Fatalf("every node has it: %v", err)
	}
}

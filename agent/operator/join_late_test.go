package operator

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/testdata/kit/bundles"
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
func (b *halfAgent) Accept(_ context.Context, s control.Signed) (control.Accepted, error) {
	if b.deaf {
		return control.Accepted{}, errors.New("gone")
	}
	b.trust.Set, b.trust.Orders = s.Set, s.Orders
	return control.Accepted{}, nil
}

// TestResumeAsksOfTheJoinedOrder: what was joined, and has not got to the agent that is
// asked, is not resumed on what nodes say of older metadata.
func TestResumeAsksOfTheJoinedOrder(t *testing.T) {
	f := bundles.Folder(t, filepath.Join(t.TempDir(), "trust"), time.Now())
	m, data := bundles.Manifest(t, 1, bundle.Digest{}, "kv")
	if _, err := f.AddRelease(1, data); err != nil {
		t.Fatal(err)
	}
	ids := []bundle.NodeID{{1}, {2}}
	first, err := schedule.Instantiate(m, bundle.Sum(data), nil, []schedule.Candidate{{ID: ids[0], Class: "kv", Reachable: true}, {ID: ids[1], Class: "kv", Reachable: true}})
	if err != nil {
		t.Fatal(err)
	}
	encoded := func(o *schedule.Order, err error) []byte {
		t.Helper()
		data, merr := schedule.MarshalOrder(o)
		if err = errors.Join(err, merr); err != nil {
			t.Fatal(err)
		}
		return data
	}
	theirs := encoded(first.Retry("kv", ids[0]))
	for serial, data := range [][]byte{encoded(first, nil), encoded(first.Retry("kv", ids[1]))} {
		if _, err := f.AddOrder(1, uint64(serial+1), data); err != nil {
			t.Fatal(err)
		}
	}
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
	defer s.Close()
	c, o := control.NewClient(filepath.Join(dir, "s")), New(f)
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

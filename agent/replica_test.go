package agent

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// newRingBench is a bench with a ring, which the test's end closes.
func newRingBench(t *testing.T) *bench {
	t.Helper()
	cfg := benchConfig(t)
	cfg.Bind = "127.0.0.1:0"
	b := newBench(t, cfg, 1)
	c := &closers{}
	b.do(func() {
		if err := b.openRing(c); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// A name is that node's whose record came first, also after a restart, whatever the order
// of the records on the disk; and until the node is forgotten.
func TestNamesStay(t *testing.T) {
	b := newRingBench(t)
	firsts := map[string]bundle.NodeID{}
	b.do(func() {
		for i := range 8 {
			name := fmt.Sprintf("m%d", i)
			firsts[name] = b.peer(func(r *view.Record) { r.Name = name })
			b.peer(func(r *view.Record) { r.Name = name })
			b.persistView()
		}
		owners, err := b.owners()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, o := range owners {
			if first, named := firsts[o.Name]; named && !seen[o.Name] && o.ID != first {
				t.Errorf("after a restart %s is another node's", o.Name)
			}
			seen[o.Name] = true
		}
		if len(owners) < 16 || len(seen) < 8 {
			t.Errorf("%d owners of %d names", len(owners), len(seen))
		}
		if r, _ := b.node.View().Get(firsts["m1"]); !b.ring.Own(ownerOf(r)) {
			t.Error("the first does not have the name")
		}
		b.node.View().Forget(map[bundle.NodeID]uint64{firsts["m1"]: 1})
		b.noteName(firsts["m1"])
		later := b.peer(func(r *view.Record) { r.Name = "m1" })
		if r, _ := b.node.View().Get(later); !b.ring.Own(ownerOf(r)) {
			t.Error("a node that is forgotten keeps its name")
		}
	})
}

// Bad records and bad metadata of peers, however many, are a line in the log now and then.
func TestBadRecordsFillNoLog(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	var logged bytes.Buffer
	b.do(func() {
		b.log = slog.New(slog.NewTextHandler(&logged, nil))
		for range 100 {
			b.merge(bundle.NodeID{2}, []view.Signed{{}})
			b.offered(bundle.NodeID{2}, []byte("no set"))
		}
	})
	if n := strings.Count(logged.String(), "of a peer not taken"); n != 2 {
		t.Errorf("%d lines of 200 bad things that a peer has sent:\n%.1000s", n, logged.String())
	}
}

// TestNamesBounded: who changes its name again and again leaves one on the disk.
func TestNamesBounded(t *testing.T) {
	b := newRingBench(t)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		names := func() (n int) {
			if err := b.store.Each(bucketNames, func(string, []byte) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := names()
		for i := range 20 {
			s, err := view.Sign(key, view.Record{
				Name: fmt.Sprintf("m%d", i), Class: "kv", Seq: uint64(i + 1), Addr: "10.0.0.2:7946", Phase: upgrade.Current, Since: time.Unix(1, 0).UTC(),
			})
			if err != nil {
				t.Fatal(err)
			}
			b.merge(b.id, []view.Signed{s})
			b.persistView()
		}
		if n := names(); n > before+2 {
			t.Errorf("one node has %d names on the disk", n-before)
		}
	})
}

package agent

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"moult/agent/membership"
	"moult/agent/operator"
	"moult/agent/upgrade"
	"moult/gossip"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// A name is that node's whose record came first, also after a restart, whatever the order
// of the records on the disk; and until the node is forgotten.
func TestNamesStay(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
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

// TestEnrolledNames: a name is that of the node that is enrolled by it, heard of or not, and
// no stranger's, however early it came.
func TestEnrolledNames(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		squatter := b.peer(func(r *view.Record) { r.Name = "m1" })
		member, unheard := b.peer(func(r *view.Record) { r.Name = "m1" }), bundle.NodeID{7}
		owner := func(id bundle.NodeID, name string) gossip.Owner {
			return gossip.Owner{Name: name, ID: id, Addr: "10.0.0.9:1"}
		}
		if b.ring.Own(owner(member, "m1")) {
			t.Fatal("it has the name already, so this shows nothing")
		}
		b.closeRing(membership.Member{Node: b.ID, Name: "n1", Class: "kv"}, membership.Member{Node: member, Name: "m1", Class: "kv"}, membership.Member{Node: unheard, Name: "m2", Class: "kv"})
		if b.ring.Own(owner(squatter, "m1")) || b.ring.Own(owner(squatter, "m2")) {
			t.Error("a stranger has a name that another is enrolled by")
		}
		if !b.ring.Own(owner(member, "m1")) || !b.ring.Own(owner(unheard, "m2")) {
			t.Error("a member does not have the name that it is enrolled by")
		}
		owners, err := b.owners()
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bundle.NodeID{}
		for _, o := range owners {
			if o.ID == squatter {
				t.Error("after a restart a stranger has a name")
			}
			names[o.Name] = o.ID
		}
		if names["m1"] != member || names["m2"] != unheard {
			t.Errorf("after a restart: %v", names)
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
			b.takeSet(bundle.NodeID{2}, []byte("no set"))
		}
	})
	if n := strings.Count(logged.String(), "of a peer not taken"); n != 2 {
		t.Errorf("%d lines of 200 bad things that a peer has sent:\n%.1000s", n, logged.String())
	}
}

// TestNamesBounded: who changes its name again and again leaves one on the disk.
func TestNamesBounded(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		names := func() int {
			all, err := b.Names()
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		before := names()
		for i := range 20 {
			s, err := view.Sign(key, view.Record{
				Name: fmt.Sprintf("m%d", i), Class: "kv", Seq: uint64(i + 1), Addr: "10.0.0.2:7946", Phase: upgrade.Current, Since: time.Unix(1, 0).UTC(),
			})
			if err != nil {
				t.Fatal(err)
			}
			b.merge(b.ID, []view.Signed{s})
			b.persistView()
		}
		if n := names(); n > before+2 {
			t.Errorf("one node has %d names on the disk", n-before)
		}
	})
}

// TestSightedBounded: of many phases that were seen at once, some are written at a time, the oldest
// first, and all in the end.
func TestSightedBounded(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		b.persistView()
		var ids []bundle.NodeID
		for i := range 2*maxKept + 1 {
			ids = append(ids, b.peer(func(r *view.Record) { r.Name = fmt.Sprintf("m%d", i) }))
		}
		for _, want := range []int{maxKept, 2 * maxKept, 2*maxKept + 1} {
			b.persistView()
			for i, id := range ids {
				if past, err := b.Seen(id); err != nil || (len(past.Phases) == 1) != (i < want) {
					t.Fatalf("node %d of %d, %d to be written: %+v, %v", i, len(ids), want, past.Phases, err)
				}
			}
		}
	})
}

// closeRing hands over who belongs to the cluster, as an operator does.
func (b *bench) closeRing(members ...membership.Member) {
	b.t.Helper()
	folder, err := trust.OpenFolder(filepath.Join(filepath.Dir(b.cfg.Root), "trust"), time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	defer folder.Close()
	var none *membership.Membership
	signed, err := operator.New(folder).SignMembers(none.Enrol(members...))
	if err == nil {
		err = b.accept(*signed)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.flush()
}

// TestJoinTokenGone: what a token has signed once is said again without it; and that it is
// not there, and never was, keeps no agent from starting.
func TestJoinTokenGone(t *testing.T) {
	cfg := benchConfig(t)
	cfg.JoinToken = filepath.Join(t.TempDir(), "join.token")
	b := newBench(t, cfg, 1)
	if e, err := b.Enrol(); err != nil || !e.IsZero() {
		t.Fatalf("without a token: %v, %v", e, err)
	}
	secret, err := membership.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.JoinToken, []byte(secret.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	signed, err := b.Enrol()
	if err != nil || !reflect.DeepEqual(signed, secret.Enrol(b.ID, "kv")) {
		t.Fatalf("by a token: %v, %v", signed, err)
	}
	if err := os.Remove(cfg.JoinToken); err != nil {
		t.Fatal(err)
	}
	if e, err := b.Enrol(); err != nil || !reflect.DeepEqual(e, signed) {
		t.Errorf("the token is gone: %v, %v", e, err)
	}
	another := benchConfig(t)
	another.JoinToken = cfg.JoinToken
	fresh := newBench(t, another, 2)
	if err := os.WriteFile(cfg.JoinToken, []byte("no token"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := b.Enrol(); err != nil || !reflect.DeepEqual(e, signed) {
		t.Errorf("the token is none any more: %v, %v", e, err)
	}
	if _, err := fresh.Enrol(); err == nil || !strings.Contains(err.Error(), "not a join token") {
		t.Errorf("no token, and nothing signed: %v", err)
	}
}

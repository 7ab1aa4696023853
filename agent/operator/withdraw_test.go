package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
	"moult/testdata/kit"
	"moult/testdata/kit/bundles"
)

// peer is an agent that has one node, which waits, and refuses what is handed over while
// it is deaf.
type peer struct {
	control.Trust
	deaf   bool
	more   []control.NodeStatus
	number int64           // of the metadata that the node has
	status *control.Status // instead of that of the one node
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/v1/status" && p.status != nil:
		json.NewEncoder(w).Encode(p.status)
	case r.URL.Path == "/v1/status":
		n1 := control.NodeStatus{Name: "n1", ID: bundle.NodeID{1}, Class: "kv", Version: 1, Running: 1, Reachable: true, Phase: string(view.Waiting), Metadata: p.number}
		json.NewEncoder(w).Encode(control.Status{Nodes: append(p.more, n1)})
	case r.Method == http.MethodGet:
		json.NewEncoder(w).Encode(p.Trust)
	case p.deaf:
		http.Error(w, "gone", http.StatusInternalServerError)
	default:
		var s control.Signed
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.Set = s.Set
		for v, data := range s.Orders {
			p.Orders[v] = data
		}
		json.NewEncoder(w).Encode(control.Accepted{})
	}
}

// ordered is a trust folder with an order for each of some releases, and a peer that has
// them.
func ordered(t *testing.T, dir string, releases bundle.Version) (*trust.Folder, *peer, *control.Client) {
	t.Helper()
	f := bundles.Folder(t, dir, time.Now())
	node := []schedule.Candidate{{ID: bundle.NodeID{1}, Class: "kv", Reachable: true}}
	p := &peer{Trust: control.Trust{Orders: map[bundle.Version][]byte{}, Head: releases}}
	var before *schedule.Order
	var digest bundle.Digest
	for n := bundle.Version(1); n <= releases; n++ {
		m, data := bundles.Manifest(t, n, digest, "kv")
		digest = bundle.Sum(data)
		if _, err := f.AddRelease(n, data); err != nil {
			t.Fatal(err)
		}
		var err error
		if before, err = schedule.Instantiate(m, digest, before, node); err != nil {
			t.Fatal(err)
		}
		if p.Orders[n], err = schedule.MarshalOrder(before); err != nil {
			t.Fatal(err)
		}
		v, err := f.AddOrder(n, 1, p.Orders[n])
		if err != nil {
			t.Fatal(err)
		}
		if p.Set, err = v.Set().Marshal(); err != nil {
			t.Fatal(err)
		}
	}
	p.number = f.Current().Versions().Timestamp
	srv := httptest.NewServer(p)
	t.Cleanup(srv.Close)
	return f, p, control.NewClient(srv.URL)
}

func (p *peer) order(t *testing.T, v bundle.Version) *schedule.Order {
	t.Helper()
	o, err := schedule.ParseOrder(p.Orders[v])
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestWithdrawAfterLostAbort: the aborts were signed, and no peer has taken them. The same
// again hands them over, and signs nothing on the word of a node that has not heard of them.
func TestWithdrawAfterLostAbort(t *testing.T) {
	f, p, api := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 3)
	w := Withdrawal{Class: "kv", Release: 2}
	p.deaf = true
	for range 3 { // one abort each, and then none
		if _, _, err := New(f).Withdraw(t.Context(), api, w); err == nil {
			t.Fatal("withdrawn, and no peer has taken anything")
		}
	}
	p.deaf = false
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.Waits = func(text string) {
		cancel()
		if want := "n1: it has not said yet"; !strings.HasPrefix(text, want) {
			t.Errorf("it waits for %q, want %q", text, want)
		}
	}
	if _, _, err := New(f).Withdraw(ctx, api, w); err == nil || len(p.order(t, 3).Withdrawn) > 0 {
		t.Fatalf("withdrawn (%v), though n1 waits under the running orders, and has not heard of the aborts", p.order(t, 3).Withdrawn)
	}
	for v := bundle.Version(2); v <= 3; v++ {
		if o := p.order(t, v); o.State != schedule.StateAborted {
			t.Errorf("the peer has the order of release %d that is %s", v, o.State)
		}
	}
	p.number = f.Current().Versions().Timestamp // now n1 has heard of them
	w.Waits = nil
	if from, _, err := New(f).Withdraw(t.Context(), api, w); err != nil || from != 1 || !p.order(t, 3).Withdrawn.Has("kv", 2) {
		t.Errorf("the next release takes kv from %d, %v", from, err)
	}
}

// forever is the number of metadata newer than any.
const forever = 1 << 40

// hint is what an error advises.
func hint(err error) string {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e.Hint
	}
	return ""
}

// TestWithdrawNewcomer: a machine that has joined since has no place in the order, so it
// cannot be skipped. What is printed for it leads on.
func TestWithdrawNewcomer(t *testing.T) {
	for name, joined := range map[string]control.NodeStatus{
		"installed at 2":        {Version: 2, Running: 2, Phase: string(view.Current)},
		"it is being installed": {Phase: string(view.Fetching)},
	} {
		f, p, api := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
		p.number = forever
		joined.Name, joined.ID, joined.Class, joined.Metadata, joined.Reachable = "n9", bundle.NodeID{9}, "kv", forever, true
		p.more = []control.NodeStatus{joined}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		said := ""
		w := Withdrawal{Class: "kv", Release: 2, Waits: func(text string) {
			said += text
			cancel()
		}}
		_, _, err := New(f).Withdraw(ctx, api, w)
		if said += hint(err); err == nil || !strings.Contains(said, "`moult leave` there), then `moult forget n9`") || strings.Contains(said, "skip --release 2 n9") {
			t.Errorf("%s: %v, %q", name, err, said)
		}
		p.more[0].Reachable = false
		if _, _, err := New(f).Withdraw(t.Context(), api, w); err != nil {
			t.Errorf("%s, and has left: %v", name, err)
		}
	}
}

// TestWithdrawHandedIn: the command that is printed for a bundle which nobody could take,
// built in another trust folder, withdraws it.
func TestWithdrawHandedIn(t *testing.T) {
	dir := filepath.Join(kit.MemDir(t), "trust")
	f, p, api := ordered(t, dir, 2)
	p.number = forever
	published := filepath.Join(t.TempDir(), "published")
	if err := os.CopyFS(published, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	keys, _ := filepath.Glob(filepath.Join(published, "keys", "*"))
	for _, key := range keys {
		if err := os.Chmod(key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := New(f).Withdraw(t.Context(), api, Withdrawal{Class: "kv", Release: 2}); err != nil {
		t.Fatal(err)
	}
	publisher, err := trust.OpenFolder(published, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	second, _ := publisher.SignedRelease(2)
	m, data := bundles.Manifest(t, 3, bundle.Sum(second), "kv") // it takes kv from 2
	v, err := publisher.AddRelease(3, data)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	blob := archive.Blob{Chunk: m.Classes["kv"].Artifacts[0].Chunks[0], Content: strings.NewReader("kv")}
	if err := archive.Write(&file, v, archive.Docs{Manifests: map[bundle.Version][]byte{3: data}}, []archive.Blob{blob}); err != nil {
		t.Fatal(err)
	}
	b, err := archive.Open(bytes.NewReader(file.Bytes()), int64(file.Len()), f.FirstRoot(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = New(f).Begin(t.Context(), api, b, false); err == nil || !strings.Contains(hint(err), "`moult withdraw --class kv 3`") {
		t.Fatalf("inject it: %v, %q", err, hint(err))
	}
	if from, _, err := New(f).Withdraw(t.Context(), api, Withdrawal{Class: "kv", Release: 3}); err != nil || from != 1 {
		t.Errorf("the next release takes kv from %d, %v", from, err)
	}
}

// TestWithdrawnByAnother: what another operator has withdrawn, the next order of a later
// release says, too; nothing goes back to earlier ones.
func TestWithdrawnByAnother(t *testing.T) {
	f, p, api := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 3)
	two, err := p.order(t, 2).Abort()
	if err == nil {
		two, err = two.Withdraw("kv", 2, 2)
	}
	if err == nil {
		p.Orders[2], err = schedule.MarshalOrder(two)
	}
	if err != nil {
		t.Fatal(err)
	}
	if o, err := New(f).orderBefore(p.Trust, 4); err != nil || !o.Withdrawn.Has("kv", 2) {
		t.Errorf("release 4 follows %+v, %v", o, err)
	}
	for _, v := range []bundle.Version{1, 3} {
		if _, _, err := New(f).Change(t.Context(), api, v, Change{Name: "pause", Apply: (*schedule.Order).Pause}); err != nil {
			t.Fatal(err)
		}
		if got := p.order(t, v).Withdrawn.Has("kv", 2); got != (v == 3) {
			t.Errorf("that the next order of release %d says so: %v", v, got)
		}
	}
}

// TestWithdrawTakenBack: a release that was taken back is withdrawn where nobody was ever let in
// to it: that a node has promised to go by that order says nothing.
func TestWithdrawTakenBack(t *testing.T) {
	for _, claims := range []bundle.Version{0, 2} {
		f, p, api := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
		p.status = settledAt(1)
		n := &p.status.Nodes[0]
		n.Metadata, n.Turned, n.Claims = forever, view.Turned{Release: 2, Turn: 1, Done: true}, claims
		if _, _, err := New(f).Withdraw(t.Context(), api, Withdrawal{Class: "kv", Release: 2}); (err == nil) != (claims == 0) {
			t.Errorf("a node has been at version %d once: %v", claims, err)
		}
	}
}

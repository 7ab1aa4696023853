package report

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"moult/agent/node"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// TestClocks: whose clock is ahead is named, with by how much, until it is set; where most are,
// it is this machine's that is behind. What is old, or a little ahead, is no sign. A node at rest
// says for months what it said: that counts no more soon after the clock here has come to it.
func TestClocks(t *testing.T) {
	now := time.Unix(1e9, 0)
	keys := make([]ed25519.PrivateKey, 5)
	alive := map[bundle.NodeID]bool{}
	for i := range keys {
		_, keys[i], _ = ed25519.GenerateKey(nil)
		alive[bundle.NodeIDOf(keys[i].Public().(ed25519.PublicKey))] = true
	}
	own := keys[0].Public().(ed25519.PublicKey)
	n, err := node.New(node.Config{Self: bundle.NodeIDOf(own), Key: own, Name: "n0", Class: "kv"}, node.Memory{}, now)
	if err != nil {
		t.Fatal(err)
	}
	n.Step(now, node.Members{Alive: alive})
	seq := uint64(0)
	says := func(i int, since time.Time) {
		seq++
		r, err := view.Sign(keys[i], view.Record{Name: fmt.Sprint("n", i), Class: "kv", Seq: seq, Phase: view.Current, Since: since.UTC()})
		if err == nil {
			_, err = n.Merge(now, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	alarm := func() string {
		n.Step(now, node.Tick{})
		p := Peer{ID: bundle.NodeIDOf(own), Node: n, Now: now, Trust: &trust.Verified{}}
		s := p.Status(nil)
		return p.clocks(&s)
	}
	for i := range keys[1:] {
		says(i+1, now.Add(time.Duration(i)*time.Second-time.Hour))
	}
	says(4, now.Add(4*time.Second))
	if text := alarm(); text != "" {
		t.Errorf("nothing is wrong: %s", text)
	}
	says(1, now.Add(12*time.Second))
	if text := alarm(); !strings.HasPrefix(text, "clocks are ahead of this machine's: n1 by 12s or more: set them") {
		t.Errorf("one is ahead: %q", text)
	}
	later := now.Add(12 * time.Second)
	now = now.Add(10 * time.Second)
	says(1, later) // of the same phase: it shows no less
	if text := alarm(); !strings.Contains(text, "n1 by 12s") {
		t.Errorf("it says more, and no other time: %q", text)
	}
	says(2, now.Add(7*time.Second))
	says(3, now.Add(time.Hour))
	if text := alarm(); !strings.HasPrefix(text, "the clock of this machine is behind those of most others, by 7s or more") {
		t.Errorf("most are ahead: %q", text)
	}
	for i := range keys[1:] {
		says(i+1, now)
	}
	if text := alarm(); text != "" {
		t.Errorf("all are set: %s", text)
	}
	later = now.Add(12 * time.Second)
	says(1, later)
	now = later.Add(10 * time.Minute)
	if text := alarm(); !strings.Contains(text, "n1 by 12s") {
		t.Errorf("it was ahead a while ago: %q", text)
	}
	now = now.Add(time.Second)
	says(1, later)
	if text := alarm(); text != "" {
		t.Errorf("nothing shows any more that it is ahead: %s", text)
	}
	says(1, now.Add(12*time.Second))
	if text := alarm(); !strings.Contains(text, "n1 by 12s") {
		t.Errorf("it is ahead again: %q", text)
	}
	for i := range keys[1:] { // of which this machine hears an hour behind
		says(i+1, now.Add(time.Hour-time.Duration(i)*time.Minute))
	}
	if text := alarm(); !strings.HasPrefix(text, "the clock of this machine is behind") {
		t.Errorf("all are ahead: %q", text)
	}
	now = now.Add(time.Hour + 20*time.Minute)
	if text := alarm(); text != "" {
		t.Errorf("this machine's clock is set: %s", text)
	}
}

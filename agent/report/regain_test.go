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
)

// TestUnheard: a restored node waits for those of its class, or for anybody, but not for who has
// left.
func TestUnheard(t *testing.T) {
	now := time.Unix(1e9, 0)
	restored := func(skipped bool, classes ...string) *node.Node {
		own, _, _ := ed25519.GenerateKey(nil)
		cfg := node.Config{Self: bundle.NodeIDOf(own), Key: own, Name: "n0", Class: "kv"}
		n, err := node.New(cfg, node.Memory{}, now)
		if err != nil {
			t.Fatal(err)
		}
		for i, class := range classes {
			_, key, _ := ed25519.GenerateKey(nil)
			r := view.Record{Name: fmt.Sprint("n", i+1), Class: bundle.Class(class), Seq: 1, Phase: view.Current, Left: skipped}
			signed, err := view.Sign(key, r)
			if err == nil {
				_, err = n.Merge(now, signed)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	for _, c := range []struct {
		name   string
		n      *node.Node
		synced bool
		want   string // "" where it goes on
	}{
		{"one of its class", restored(false, "kv"), true, "from n1"},
		{"one of its class, and nobody was heard", restored(false, "kv"), false, "`moult skip n1`"},
		{"of another class", restored(false, "db"), true, ""},
		{"of another class, and nobody was heard", restored(false, "db"), false, "any peer"},
		{"nobody is known, nor heard", restored(false), false, "any peer"},
		{"who has left, and nobody was heard", restored(true, "kv"), false, "any peer"},
		{"who has left", restored(true, "kv"), true, ""},
	} {
		if missing, text := Unheard(c.n, "kv", nil, c.synced); !strings.Contains(text, c.want) || (text == "") != (c.want == "") {
			t.Errorf("%s: %d, %q", c.name, len(missing), text)
		}
	}
}

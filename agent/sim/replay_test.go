package sim

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"moult/agent/node"
)

// TestReplay shows that a seed says it all: two runs are equal event by event,
// also where a promise is broken, and another seed is another run.
func TestReplay(t *testing.T) {
	other := Run(Config{Seed: 3}).Hash
	broken := planted(t)
	for name, cfg := range map[string]Config{
		"sound":  {Seed: 4},
		"broken": {Seed: broken.Seed, Plant: offByOne, Only: "P4"},
	} {
		t.Run(name, func(t *testing.T) {
			var first, second bytes.Buffer
			cfg.Trace = &first
			a := Run(cfg)
			cfg.Trace = &second
			b := Run(cfg)
			if a.Hash != b.Hash || a.Steps != b.Steps || a.String() != b.String() || a.Stats != b.Stats {
				t.Fatalf("one seed, two runs:\n%v\n%v", a, b)
			}
			if !bytes.Equal(first.Bytes(), second.Bytes()) || first.Len() == 0 {
				t.Fatal("one seed, two traces")
			}
			if a.Hash == other {
				t.Fatal("two seeds, one run")
			}
			if (a.Violation != nil) != (name == "broken") {
				t.Fatal(a)
			}
		})
	}
}

var offByOne = Plant{Rules: node.Rules{Decide: rankOffByOne}}

// planted returns a run that a planted bug has broken.
func planted(t *testing.T) Result {
	t.Helper()
	r := brokenOnce()
	if r.Violation == nil {
		t.Fatal("the planted bug was not found")
	}
	return r
}

var brokenOnce = sync.OnceValue(func() Result {
	r := Run(Config{Seed: foundBy["rank off by one"], Plant: offByOne, Only: "P4"})
	if r.Violation != nil {
		return r
	}
	for r = range runAll(withinSeeds, offByOne, "P4") { // the runs of seeds change with whatever is decided
		if r.Violation != nil {
			break
		}
	}
	return r
})

// TestFailureTellsHowToReplay shows what a failure prints.
func TestFailureTellsHowToReplay(t *testing.T) {
	r := planted(t)
	text, seed := r.String(), fmt.Sprint("seed ", r.Seed)
	for _, want := range []string{seed + ": P4 at ", "the last events:\n", " -> draining", "-" + seed + " -v"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if len(r.Last) != lastEvents {
		t.Errorf("%d last events, want %d", len(r.Last), lastEvents)
	}
}

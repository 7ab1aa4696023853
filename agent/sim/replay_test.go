package sim

import (
	"bytes"
	"strings"
	"testing"
)

// TestReplay shows that a seed says it all: two runs are equal event by event,
// also where a promise is broken, and another seed is another run.
func TestReplay(t *testing.T) {
	other := Run(Config{Seed: 3}).Hash
	for name, cfg := range map[string]Config{
		"sound":  {Seed: 4},
		"broken": {Seed: 1, Driver: Driver{Decide: rankOffByOne}},
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

// TestFailureTellsHowToReplay shows what a failure prints.
func TestFailureTellsHowToReplay(t *testing.T) {
	r := Run(Config{Seed: 1, Driver: Driver{Decide: rankOffByOne}})
	if r.Violation == nil {
		t.Fatal("the planted bug was not found")
	}
	text := r.String()
	for _, want := range []string{"seed 1: P4 at ", "the last events:\n", " -> draining", "-seed 1 -v"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if len(r.Last) != lastEvents {
		t.Errorf("%d last events, want %d", len(r.Last), lastEvents)
	}
}

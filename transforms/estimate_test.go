//go:build unix

package transforms

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEstimateCopy measures states of many small files, and of few large ones, and leaves
// nothing behind.
func TestEstimateCopy(t *testing.T) {
	for name, state := range map[string]struct{ files, bytes int }{
		"many small files": {1000, 100},
		"a large file":     {1, 100 << 20},
		"a few":            {10, 1000},
	} {
		dir := filepath.Join(t.TempDir(), "state")
		s := openSlots(t, dir)
		if err := s.Create(1); err != nil {
			t.Fatal(err)
		}
		content := []byte(strings.Repeat("x", state.bytes))
		for i := range state.files {
			sub := filepath.Join(s.Path(1), fmt.Sprint(i%100))
			if err := os.MkdirAll(sub, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := syncTree(s.Path(1)); err != nil {
			t.Fatal(err)
		}
		got, err := s.EstimateCopy(t.Context(), 1)
		if err != nil || got.Files != state.files || got.Bytes < int64(state.files)*int64(state.bytes) {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
			t.Errorf("%s: it leaves %q, %v", name, left, err)
		}
		if got.Takes <= 0 {
			t.Errorf("%s: it takes %v", name, got.Takes)
		}
	}
}

// TestReckon: small files count by their number, and what there is beyond them by its bytes.
func TestReckon(t *testing.T) {
	small := sampled{files: 100, bytes: 100 << 10, took: time.Second}
	for name, c := range map[string]struct {
		e           Estimate
		small, bulk sampled
		want        time.Duration
	}{
		"an empty state":               {Estimate{}, sampled{}, sampled{}, 0},
		"as many as were copied":       {Estimate{Files: 100, Bytes: 100 << 10}, small, sampled{}, time.Second},
		"many more":                    {Estimate{Files: 300_000, Bytes: 300_000 << 10}, small, sampled{}, 3000 * time.Second},
		"a few, and a large one":       {Estimate{Files: 100, Bytes: 100<<10 + 10<<30}, small, sampled{files: 1, bytes: 1 << 30, took: 2 * time.Second}, 21 * time.Second},
		"a large one that has gone":    {Estimate{Files: 100, Bytes: 100<<10 + 10<<30}, small, sampled{}, time.Second},
		"none of which could be taken": {Estimate{Files: 100, Bytes: 1 << 30}, sampled{}, sampled{}, 0},
	} {
		c.e.reckon(0, c.small, c.bulk)
		if c.e.Takes != c.want {
			t.Errorf("%s: %v, want %v", name, c.e.Takes, c.want)
		}
	}
	var e Estimate
	if e.reckon(time.Second, sampled{}, sampled{}); e.Takes != estimateWalks*time.Second {
		t.Errorf("walks alone: %v", e.Takes)
	}
}

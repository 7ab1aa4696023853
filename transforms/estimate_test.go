package transforms

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
)

// TestEstimateCopy compares the estimate with what copying takes, for many small files, and
// for few large ones: within a factor, for both are measured on a machine that does other
// things. What is off by the sample's share of the whole (tenfold, or more) is found.
func TestEstimateCopy(t *testing.T) {
	for name, state := range map[string]struct{ files, bytes int }{
		"many small files": {3000, 100},
		"a large file":     {1, 300 << 20},
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
		began := time.Now()
		tmp, err := s.Prepare(2)
		if err == nil {
			_, err = Runner{}.Run(t.Context(), Job{Old: s.Path(1), New: tmp, From: 1, To: 2, Spec: bundle.Transform{}})
		}
		if err == nil {
			err = s.Publish(2)
		}
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		t.Logf("%s: estimated %v, took %v", name, got.Takes, took)
		const factor, grain = 6, 300 * time.Millisecond
		if got.Takes > factor*took+grain || took > factor*got.Takes+grain {
			t.Errorf("%s: it takes %v, and %v was estimated", name, took, got.Takes)
		}
	}
}

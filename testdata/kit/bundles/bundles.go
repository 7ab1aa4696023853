// Package bundles makes trust folders and releases for tests.
package bundles

import (
	"testing"
	"time"

	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Folder makes a trust folder at dir, with all keys, as of now, and opens it for as
// long as the test runs.
func Folder(t testing.TB, dir string, now time.Time) *trust.Folder {
	t.Helper()
	if err := trust.Init(dir, trust.InitOptions{Now: now}); err != nil {
		t.Fatal(err)
	}
	f, err := trust.OpenFolder(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// Manifest is a valid manifest of release n of class kv, which follows the one whose
// manifest's digest is previous, and its bytes. Its software is one chunk.
func Manifest(t testing.TB, n bundle.Version, previous bundle.Digest, software string) (*bundle.Manifest, []byte) {
	t.Helper()
	blob := bundle.Chunk{Digest: bundle.Sum([]byte(software)), Length: int64(len(software))}
	m := &bundle.Manifest{Format: bundle.FormatVersion, Version: n, Previous: previous, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {
		From: n - 1,
		Artifacts: []bundle.Artifact{{Platform: bundle.Platform{OS: "linux", Arch: "amd64"}, Digest: blob.Digest, Length: blob.Length,
			Chunks: []bundle.Chunk{blob}}},
		Command:  []string{"./kv"},
		Health:   bundle.Health{Notify: true, Interval: bundle.Duration(time.Second), HealthyDeadline: bundle.Duration(time.Minute)},
		Past:     bundle.Simulation{Kind: bundle.SimulateCompatible},
		Future:   bundle.Simulation{Kind: bundle.SimulateCompatible},
		Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1", FailureMax: 1},
	}}}
	data, err := bundle.MarshalManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	return m, data
}

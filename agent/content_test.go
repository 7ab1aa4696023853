package agent

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/testdata/kit"
)

// A publisher's key signs release 2 again, with another content, while the node is down
// for it: it goes on by the content that it began with, also after a restart, and that
// stays on the disk.
func TestContentByNumber(t *testing.T) {
	cfg := benchConfig(t)
	ours := openPublisher(t, filepath.Join(filepath.Dir(cfg.Root), "trust"))
	ours.release("one")
	thief := ours.thief()
	first := ours.release("two")
	thief.release("owt")
	second := thief.refresh()
	b := newBench(t, cfg, 1)
	take := func(v *trust.Verified, docs ...[]byte) {
		next, err := b.judgeSet(encoded(t, v))
		if err != nil {
			t.Fatal(err)
		}
		b.sets[next.Digest()] = next
		b.step(verified(b.trust, next))
		b.noteSets()
		for _, doc := range docs {
			if _, err := b.Depot.PutBlob(doc); err != nil {
				t.Fatal(err)
			}
		}
		b.step(node.LookAgain{})
		b.readDocuments()
	}
	software := func(when string) {
		t.Helper()
		cu, err := b.classUpgrade(2)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got := cu.Artifacts[0].Digest; got != bundle.Sum([]byte("two")) {
			t.Errorf("%s the node would transform by, and start, another software: %s", when, got.Short())
		}
	}
	manifest := bundle.Chunk{Digest: bundle.Sum(ours.manifests[1]), Length: int64(len(ours.manifests[1]))}
	down := upgrade.State{
		Step: 4, Phase: upgrade.Transforming, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2},
		Manifests: map[bundle.Version]bundle.Chunk{2: manifest},
	}
	b.do(func() {
		take(first, ours.manifests...)
		b.in(down)
		b.readDocuments()
		software("before")
		take(second, thief.manifests...)
		if b.trust.Digest() != second.Digest() || !b.node.Conflicted(2) {
			t.Fatal("the second signing is not in force, so this test shows nothing")
		}
		software("afterwards")
		b.sweep(down)
		if !b.Depot.HasBlob(manifest.Digest) {
			t.Error("the manifest that the attempt goes by was swept away")
		}
		b.in(down)
		b.readDocuments()
		software("after a restart")
	})
}

// What is lost while a node is down must not keep it down: it goes back, and fetches it
// again before the next attempt.
func TestLostSoftwareRollsBack(t *testing.T) {
	b := newObjectsBench(t, 1)
	if err := b.Slots.Create(1); err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		b.brings(1)
		b.brings(2)
		b.in(upgrade.State{Phase: upgrade.Transforming, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Step: 1})
	})
	if err := b.Depot.Remove(b.artifact.Digest); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := b.transform(ctx, upgrade.Transform{Step: 1, From: 1, To: 2})
	failed, _ := outcome(1, err, nil).(upgrade.Failed)
	if !errors.Is(err, errLost) || !failed.Later || !strings.Contains(failed.Reason, "the software of release 2") {
		t.Errorf("without the software the transform ends with %v", err)
	}
}

// TestSweepKeepsWhatRuns: software that a class runs stays, however many releases have
// left the class alone since.
func TestSweepKeepsWhatRuns(t *testing.T) {
	b := newObjectsBench(t, 1)
	if err := b.Slots.Create(1); err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		b.brings(1)
		s := upgrade.State{Phase: upgrade.Current, Version: 9, Running: 1, Served: true, Step: 1}
		b.in(s)
		if !b.Depot.Has(b.artifact.Digest) {
			t.Fatal("the software is not there to begin with")
		}
		b.sweep(s)
		if !b.Depot.Has(b.artifact.Digest) {
			t.Error("the software that the node runs was swept away")
		}
	})
}

// TestSoftwareBackOtherwise: the alarm that software is gone ends when it is here again,
// by whatever way it came.
func TestSoftwareBackOtherwise(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() {
		b.brings(1)
		b.in(upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true, Step: 1})
	})
	if err := b.Depot.Remove(b.artifact.Digest); err != nil {
		t.Fatal(err)
	}
	gone := func() (n int) {
		b.do(func() { n = b.alarmed("is damaged or gone on this disk") })
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := b.unpacked(ctx, b.artifact.Digest)
		ended <- err
	}()
	kit.Until(t, "the alarm", func() bool { return gone() == 1 })
	cancel()
	if err := <-ended; err == nil {
		t.Error("nobody has it, and it came")
	}
	b.pack(`true`)
	if _, err := b.unpacked(t.Context(), b.artifact.Digest); err != nil {
		t.Fatal(err)
	}
	if gone() != 0 {
		t.Error("the software is whole, and an alarm says that the node is down")
	}
}

package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"moult/store"
	"moult/store/artifact"
	"moult/store/bundle"
)

// What a full disk had no room for is not taken for seen: a set that a peer brings again,
// and the evidence of a conflict, are kept as soon as there is room, and are there after
// a restart.
func TestUnkeptComesAgain(t *testing.T) {
	ours := newPublisher(t)
	thief := ours.thief()
	first := ours.release("one")
	thief.release("eno")
	second := thief.refresh()
	j := newJudge(t, ours.FirstRoot())
	full := true
	var err error
	if j.Depot, err = artifact.Open(filepath.Join(j.cfg.Data, "artifacts"), artifact.Options{CheckSpace: func(string, int64) error {
		if full {
			return store.ErrNoSpace
		}
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	if j.takeSet(bundle.NodeID{2}, encoded(t, first)) || j.trust.Digest() == first.Digest() {
		t.Fatal("on a full disk a set counts as dealt with")
	}
	full = false
	if !j.takeSet(bundle.NodeID{2}, encoded(t, first)) || j.trust.Digest() != first.Digest() {
		t.Fatal("with room again it is not taken")
	}
	full = true
	j.takeSet(bundle.NodeID{2}, encoded(t, second)) // it cannot come into force, and is evidence all the same
	j.flush()
	if j.node.Evidence().Digest != second.Digest() {
		t.Fatal("there is no evidence, so this test shows nothing")
	}
	j.keepEvidence()
	full = false
	j.keepEvidence()
	if j = j.restarted(); j.node.Evidence().Digest != second.Digest() || !j.node.Conflicted(1) {
		t.Error("the evidence is lost with a restart")
	}
}

// Documents that the disk loses, or damages, under a running agent are fetched again: its
// next one has to read them.
func TestDocumentsLookedForAgain(t *testing.T) {
	ours := newPublisher(t)
	first := ours.release("one")
	j := newJudge(t, ours.FirstRoot())
	if !j.takeSet(bundle.NodeID{2}, encoded(t, first)) {
		t.Fatal("the set is not taken")
	}
	doc, err := j.Depot.PutBlob(ours.manifests[0])
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	missing := func() int {
		now = now.Add(lookInterval + time.Second)
		j.lookAgain(now)
		j.readDocuments()
		return j.node.MissingDocuments()
	}
	if n := missing(); n != 0 {
		t.Fatalf("%d documents are missing", n)
	}
	path := j.Depot.BlobPath(doc.Digest)
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := missing(); n != 1 {
		t.Errorf("one document is damaged, and %d are missing", n)
	}
	if _, err := j.Depot.PutBlob(ours.manifests[0]); err != nil {
		t.Fatal(err)
	}
	if n := missing(); n != 0 {
		t.Fatalf("it is back, and %d documents are missing", n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if n := missing(); n != 1 {
		t.Errorf("one document is lost, and %d are missing", n)
	}
}

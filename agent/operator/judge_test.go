package operator

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
	"moult/testdata/kit"
	"moult/testdata/kit/bundles"
)

// TestRehearsalByReplacedRoot: who kept a root key that was replaced since, and makes a chain
// of roots of the same length by it, signs nothing that is rehearsed, however low his numbers.
func TestRehearsalByReplacedRoot(t *testing.T) {
	dir := filepath.Join(kit.MemDir(t), "trust")
	ours := bundles.Folder(t, dir, time.Now())
	_, one := bundles.Manifest(t, 1, bundle.Digest{}, "kv")
	if _, err := ours.AddRelease(1, one); err != nil {
		t.Fatal(err)
	}
	stolen := filepath.Join(t.TempDir(), "stolen")
	if err := os.CopyFS(stolen, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	keys, err := filepath.Glob(filepath.Join(stolen, "keys", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range append(keys, filepath.Join(stolen, "gossip.key")) { // CopyFS adds permissions
		if err := os.Chmod(key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	thief, err := trust.OpenFolder(stolen, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	for _, rotate := range []func() error{
		ours.RotateRoot, ours.RotatePublisher, ours.RotateOperator, thief.RotateRoot, thief.RotatePublisher, thief.RotateOperator,
	} {
		if err := rotate(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := ours.Refresh(0); err != nil {
			t.Fatal(err)
		}
	}
	inForce := ours.Current()
	m, two := bundles.Manifest(t, 2, bundle.Sum(one), "evil")
	for name, of := range map[string]struct {
		folder *trust.Folder
		want   string
	}{"thief": {thief, trust.ErrUntrusted.Error()}, "publisher": {ours, "<nil>"}} {
		v, err := of.folder.AddRelease(2, two)
		if err == nil && of.folder == ours { // what somebody has signed since is no reason
			err = ours.Refresh(0)
			inForce = ours.Current()
		}
		if err != nil {
			t.Fatal(err)
		}
		if name == "thief" && (v.Versions().Root != inForce.Versions().Root || v.Versions().Timestamp >= inForce.Versions().Timestamp) {
			t.Fatalf("the thief has %+v, in force is %+v, so this test shows nothing", v.Versions(), inForce.Versions())
		}
		var file bytes.Buffer
		blob := archive.Blob{Chunk: m.Classes["kv"].Artifacts[0].Chunks[0], Content: strings.NewReader("evil")}
		if err := archive.Write(&file, v, archive.Docs{Manifests: map[bundle.Version][]byte{1: one, 2: two}}, []archive.Blob{blob}); err != nil {
			t.Fatal(err)
		}
		b, err := archive.Open(bytes.NewReader(file.Bytes()), int64(file.Len()), ours.FirstRoot(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckRehearsal(ours.FirstRoot(), inForce, b, 1); !strings.HasPrefix(fmt.Sprint(err), of.want) {
			t.Errorf("%s: %v, want %s", name, err, of.want)
		}
	}
}

package rehearse

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/testdata/kit/bundles"
)

// smallDisk mounts one with room for so many bytes beside Reserve.
func smallDisk(t *testing.T, room int64) string {
	t.Helper()
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", Reserve+room)); err != nil {
		t.Skipf("no small disk can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return disk
}

// counted counts what is read.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// TestReceiveLeavesRoom: a bundle that does not fit beside Reserve is refused before it has
// taken that from the software that runs.
func TestReceiveLeavesRoom(t *testing.T) {
	r := &counted{Reader: io.LimitReader(rand.Reader, 4*lookBytes)}
	_, err := Receive(t.Context(), r, 1<<30, filepath.Join(smallDisk(t, 2*lookBytes), "b"), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "free some") || r.n > 2*lookBytes {
		t.Errorf("after %d bytes: %v", r.n, err)
	}
}

// packed is a bundle whose software is a file of so many bytes, and the first root.
func packed(t *testing.T, size int) (file, firstRoot []byte) {
	t.Helper()
	dir := t.TempDir()
	content := make([]byte, size)
	rand.Read(content) // it never fails
	if err := os.WriteFile(filepath.Join(dir, "kv"), content, 0o755); err != nil {
		t.Fatal(err)
	}
	var software, out bytes.Buffer
	if _, err := archive.Pack(t.Context(), &software, dir, ""); err != nil {
		t.Fatal(err)
	}
	f := bundles.Folder(t, filepath.Join(t.TempDir(), "trust"), time.Now())
	_, data := bundles.Manifest(t, 1, bundle.Digest{}, software.String())
	v, err := f.AddRelease(1, data)
	if err != nil {
		t.Fatal(err)
	}
	blob := archive.Blob{Chunk: bundle.Chunk{Digest: bundle.Sum(software.Bytes()), Length: int64(software.Len())}, Content: bytes.NewReader(software.Bytes())}
	if err := archive.Write(&out, v, archive.Docs{Manifests: map[bundle.Version][]byte{1: data}}, []archive.Blob{blob}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), f.FirstRoot()
}

// TestUnpack: what is unpacked leaves room, too; the bundle is there until then only, and is
// read until somebody gives up.
func TestUnpack(t *testing.T) {
	file, root := packed(t, 3<<20)
	platform := bundle.Platform{OS: "linux", Arch: "amd64"}
	for name, c := range map[string]struct {
		room int64
		give bool
		want string
	}{
		"room":     {16 << 20, false, ""},
		"no room":  {5 << 20, false, "free some"},
		"given up": {16 << 20, true, "given up"},
	} {
		dir := filepath.Join(smallDisk(t, c.room), "b")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		b, err := Receive(ctx, bytes.NewReader(file), 1<<30, dir, root, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if c.give {
			cancel(errors.New("given up"))
		}
		p, err := b.Unpack(t.Context(), "kv", platform, slog.New(slog.DiscardHandler))
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "bundle")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the bundle is still there: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(p.Dir, "kv")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDown: how long a node is down is not known where its software was not started.
func TestDown(t *testing.T) {
	second := bundle.Duration(time.Second)
	stages := []Stage{{Name: StageCopy, Took: 9 * second}, {Name: StageTransform, Took: 3 * second}, {Name: StageStart, Took: second}, {Name: StageHealth, Took: second}, {Name: StageCheck, Took: 9 * second}}
	for n, want := range []bundle.Duration{0, 0, 0, 0, 5 * second, 5 * second} {
		if got := (Report{Stages: stages[:n], Took: time.Hour}).Down(); got != want {
			t.Errorf("after %d stages: %s, want %s", n, got, want)
		}
	}
}

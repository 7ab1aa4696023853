//go:build unix

package control

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A socket that stands in for one on a read-only disk lies in a folder of its own that is
// its owner's alone, is found by clients, also beside a dead one, and leaves nothing.
func TestStandIn(t *testing.T) {
	temp, err := os.MkdirTemp("", "") // short, for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	t.Setenv("TMPDIR", temp)
	data := t.TempDir()
	path := filepath.Join(data, SocketName)
	if _, err := listenStandIn(path, syscall.ENOSPC); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("for another reason: %v", err)
	}
	l, err := listenStandIn(path, syscall.EROFS)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(l.Addr().String())
	if info, err := os.Stat(folder); err != nil || info.Mode() != fs.ModeDir|0o700 || filepath.Dir(folder) != temp {
		t.Errorf("it is in %s: %v, %v", folder, info.Mode(), err)
	}
	if err := os.Mkdir(folder+"0", 0o700); err != nil { // a dead one's
		t.Fatal(err)
	}
	server := Serve(l, &scripted{}, slog.New(slog.DiscardHandler))
	c := NewClient(data)
	defer c.Close()
	if _, err := c.Status(t.Context(), false); err != nil {
		t.Errorf("a client: %v", err)
	}
	if err := os.Chmod(folder, 0o755); err != nil { // as no stand-in is
		t.Fatal(err)
	}
	c.Close()
	if _, err := c.Status(t.Context(), false); err == nil {
		t.Error("a client believes a folder that is open to others")
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder stays: %v", err)
	}
}

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"moult/agent/home"
	"moult/agent/node"
	"moult/agent/upgrade"
)

// An agent comes up on a disk without a byte left, goes on from where it was, and says
// what is wrong.
func TestStartsOnFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=160m"); err != nil {
		t.Skipf("no small disk can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	cfg := benchConfig(t)
	cfg.Data = filepath.Join(disk, "d")
	if err := os.Mkdir(cfg.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, cfg, 0)
	s := upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true}
	if err := b.Save(node.Save{State: &s}, home.Beside{}); err != nil {
		t.Fatal(err)
	}
	b.close()
	eater, err := os.Create(filepath.Join(disk, "eater"))
	for chunk := make([]byte, 1<<20); err == nil; {
		_, err = eater.Write(chunk)
	}
	eater.Close()
	again := newBench(t, cfg, 0)
	again.do(func() {
		again.watchDisk()
		if again.saved.Running != 1 || again.alarmed("nothing new begins until it does") != 1 {
			t.Errorf("it is at %+v, alarms %q", again.saved, again.node.Alarms())
		}
		if err := os.Remove(eater.Name()); err != nil {
			t.Error(err)
		}
		again.watchDisk()
		if again.alarmed("nothing new begins until it does") != 0 {
			t.Errorf("with room again: %q", again.node.Alarms())
		}
		if _, err := os.Stat(filepath.Join(cfg.Data, "ballast")); err != nil {
			t.Errorf("no room is kept for the next time: %v", err)
		}
	})
}

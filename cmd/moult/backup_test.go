//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"moult/agent/config"
	"moult/agent/control"
	"moult/agent/home"
	agentnode "moult/agent/node"
	"moult/agent/upgrade"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/testdata/kit"
)

// runs types a command that needs no agent.
func (c *testCluster) runs(args ...string) (code int, errs string) {
	var out, talk bytes.Buffer
	code = run(c.t.Context(), append([]string{"moult"}, args...), &out, &talk)
	return code, talk.String()
}

// relative is a path as somebody types it who stands elsewhere.
func relative(t *testing.T, path string) string {
	t.Helper()
	here, err := os.Getwd()
	if err == nil {
		path, err = filepath.Rel(here, path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBackupHalf: a node whose agent has ended amid an upgrade is not saved.
func TestBackupHalf(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "trust")
	if err := trust.Init(folder, trust.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Name, cfg.Class, cfg.Data, cfg.Root = "n1", "kv", filepath.Join(dir, "data"), filepath.Join(folder, "root.json")
	if err := os.Mkdir(cfg.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, phase := range []upgrade.Phase{upgrade.Transforming, upgrade.Probing, upgrade.Current} {
		h, err := home.Open(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s := upgrade.State{Phase: phase, Version: 1, Running: 1}
		if phase != upgrade.Current {
			s.Step, s.Goal, s.Path = 4, 2, []bundle.Version{2}
		}
		if err := errors.Join(h.Save(agentnode.Save{State: &s}, home.Beside{}), h.Close()); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, fmt.Sprint("saved", i))
		var talk bytes.Buffer
		code := run(t.Context(), []string{"moult", "backup", "--data", cfg.Data, to}, io.Discard, &talk)
		if phase == upgrade.Current {
			if code != 0 {
				t.Errorf("%s: exit code %d, %s", phase, code, &talk)
			}
			entries, err := os.ReadDir(to)
			if err != nil || len(entries) < 3 {
				t.Errorf("%s: %v, %v", phase, entries, err)
			}
			continue
		}
		if code != exitRefused || !strings.Contains(talk.String(), fmt.Sprintf("this node is %s", phase)) {
			t.Errorf("%s: exit code %d, %s", phase, code, &talk)
		}
		if left, err := filepath.Glob(to + "*"); err != nil || len(left) != 0 {
			t.Errorf("%s: it leaves %v, %v", phase, left, err)
		}
	}
}

// TestBackup: a node is saved while it runs, goes on to the next release, is lost, and restored: it
// takes back what it has said since from every node that may have gone by it, before it begins
// anything, and goes on.
func TestBackup(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := settledSmall(t, 3)
	first, third := c.Agents[0], c.Agents[2]
	simulations := "past {\n compatible = true\n}\nfuture {\n compatible = true\n}\nrehearse {\n snapshot = [\"/bin/sh\", \"-c\", \"cp -R $MOULT_OLD/. $MOULT_NEW\"]\n}\n"
	if err := c.inject(first, c.bundle(2, fmt.Sprintf(smallSpec, 2, "from = 1", runtime.GOOS, runtime.GOARCH, simulations))); err != nil {
		t.Fatal(err)
	}
	c.complete(first, 2, 3)
	c.pid(third)
	kept := func(v string) string { return filepath.Join(third.Data, "state", v, "kept") }
	kit.Until(t, "the state", func() bool { return os.WriteFile(kept("2"), []byte("kept"), 0o600) == nil })
	saved := filepath.Join(c.dir, "saved")
	c.must("backup", "--data", third.Data, saved)
	for file, mode := range map[string]os.FileMode{"": 0o700, "identity.pem": 0o600, "backup.json": 0o600} {
		if fi, err := os.Stat(filepath.Join(saved, file)); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("the backup's %q: %v, %v", file, fi, err)
		}
	}
	if code, errs := c.runs("backup", "--data", third.Data, saved); code != exitFailed || !strings.Contains(errs, "is there already") {
		t.Errorf("the same folder again: exit code %d, %s", code, errs)
	}

	c.next(first, 3)
	c.complete(first, 3, 3)
	c.complete(c.Agents[1], 3, 3) // which is the one that still knows it when the others are gone
	if code, errs := c.runs("backup", "--data", third.Data, saved+"2"); code != exitRefused || !strings.Contains(errs, "no snapshot program") {
		t.Errorf("without a snapshot: exit code %d, %s", code, errs)
	}
	c.must("backup", "--stateless", "--data", third.Data, saved+"2")

	// It is lost. What is to be restored must be whole, and have a place.
	config := c.config(third)
	if code, errs := c.runs("restore", "--data", third.Data, saved); code != exitFailed || !strings.Contains(errs, "is in use by") {
		t.Errorf("restore where an agent runs: exit code %d, %s", code, errs)
	}
	c.cut(third)
	if code, errs := c.runs("restore", "--data", third.Data, saved); code != exitFailed || !strings.Contains(errs, "there is a node") {
		t.Errorf("restore over a node: exit code %d, %s", code, errs)
	}
	c.must("backup", "--data", relative(t, third.Data), relative(t, saved)+"3") // of one that has ended
	if err := os.RemoveAll(third.Data); err != nil {
		t.Fatal(err)
	}
	if err := third.Configure(config); err != nil {
		t.Fatal(err)
	}
	spoilt := filepath.Join(saved+"2", "store", "floor.json")
	if err := flipBit(spoilt); err != nil {
		t.Fatal(err)
	}
	if code, errs := c.runs("restore", "--data", third.Data, saved+"2"); code != exitFailed || !strings.Contains(errs, "store is not as it was saved") {
		t.Errorf("restore what is damaged: exit code %d, %s", code, errs)
	}
	c.must("restore", "--data", relative(t, third.Data), relative(t, saved))

	// One of those that may have gone by its word is not there: it waits, whatever others say.
	c.kill(first)
	half := filepath.Join(third.Data, "rehearsal-backup", "2") // of an agent that was killed amid a backup
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	c.up([]*cluster.Agent{third})
	c.says(third, "waits to hear from n1 what it has signed since; `moult skip n1` goes on without")
	if _, err := os.Stat(filepath.Dir(half)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a copy of the state is left: %v", err)
	}
	if code, errs := c.runs("backup", "--data", third.Data, saved+"4"); code != exitRefused || !strings.Contains(errs, "waits to hear from its peers") {
		t.Errorf("a backup of a node that waits for its peers: exit code %d, %s", code, errs)
	}
	if s := c.until(c.Agents[1], "n3 to be there", func(s control.Status) bool { return node(s, "n3").Reachable }); node(s, "n3").Version != 3 {
		t.Errorf("it says that it is at version %d", node(s, "n3").Version)
	}
	c.up([]*cluster.Agent{first})
	c.says(third, "it had settled at version 3; its state is that of version 2")
	c.until(first, "all to be there", func(s control.Status) bool { return cluster.Reachable(s) == 3 })
	c.next(first, 4)
	c.complete(first, 4, 3)
	if data, err := os.ReadFile(kept("4")); err != nil || string(data) != "kept" {
		t.Errorf("its state has %q, %v", data, err)
	}
	if most := cluster.MostAtOnce(c.downs()); most != 1 {
		t.Errorf("%d nodes were down at once", most)
	}
}

package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/account/bounds"
	"moult/agent/account/cgroup"
)

// Software that takes more memory than it may, or whose child does, is said to have ended so,
// also by an agent that has adopted it; other software is not. All of it begins in the folder
// that it is to.
func TestBounds(t *testing.T) {
	dir := t.TempDir()
	k, lacks := (&bounds.Bounds{WorkingDir: dir, Together: cgroup.Limits{MemoryMax: 64 << 20}}).Kinds(fmt.Sprintf("moult-test-p%d", os.Getpid()))
	if lacks != nil {
		t.Skipf("skipped: no group holds memory here: %v", lacks)
	}
	defer func() {
		if err := k.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(k.Software.Group.Memory, k.Software.Group.Unified)); err == nil {
			t.Error("the group is left")
		}
	}()
	run := func(script string) Spec {
		spec := newSpec(t, "hang")
		spec.Argv, spec.Bounds = []string{"/bin/sh", "-c", script}, k.Software
		return spec
	}
	const itself, eats = "ended by the kernel: it took more than memory_max 64 MiB", "dd if=/dev/zero of=/dev/null bs=256M count=1"
	for name, c := range map[string]struct{ script, want string }{
		"itself":  {"exec " + eats, itself},
		"a child": {eats + "; exit 3", "exit status 3; the kernel has ended a process of it, since they took more than memory_max 64 MiB"},
		"nobody":  {"pwd >here; kill -KILL $$", "ended by signal SIGKILL"},
	} {
		p := started(t, run(c.script))
		<-p.Done()
		if got := p.Exit().String(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "here")); strings.TrimSpace(string(text)) != dir {
		t.Errorf("it ran in %s, %v", text, err)
	}

	spec := run("read x <fifo; exec " + eats)
	if _, err := spec.Output(context.Background(), []string{"mkfifo", "fifo"}, 100); err != nil {
		t.Fatal(err)
	}
	second, err := Adopt(started(t, spec).Handle(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := os.WriteFile(filepath.Join(dir, "fifo"), []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	<-second.Done()
	if got := second.Exit().String(); got != itself {
		t.Errorf("adopted: %q", got)
	}
}

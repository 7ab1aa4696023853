//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// What the disk does to a file.
const (
	lost      = "lost"
	flipped   = "a flipped bit"
	truncated = "truncated"
	empty     = "empty"
)

var damages = []string{lost, flipped, truncated, empty}

// When it does: under a running agent, which then has to do with the file, or while none runs.
const (
	underIt  = "while the agent runs"
	beforeIt = "before the agent starts"
)

// fate is what becomes of a node after that.
type fate struct {
	alarm   string // that the agent raises; "" for none that is looked for
	refuses string // why the agent does not start; "" where it does
	anew    bool   // the software is started anew
	unheard bool   // the agent cannot be asked before it is started anew
	another bool   // it is another node than before
	down    bool   // the software stays down
	backup  bool   // the node needs its backup, and has it afterwards
	back    bool   // the file is as it was, or again what it has to be
}

// folderRow is a row of the table of docs/operations.md.
type folderRow struct {
	path  string                                              // as the table has it
	files func(t *testing.T, a *cluster.Agent) []string       // that are lost or damaged
	spoil func(damage, path string) error                     // nil: spoilFile
	use   func(c *testCluster, a *cluster.Agent)              // has the running agent to do with them; nil: nothing
	ends  bool                                                // the software ends as well
	fates func(damage, when string) fate                      // what then happens
	check func(t *testing.T, damage string, a *cluster.Agent) // beside; nil: nothing
	// restore brings back what the agent does not, while it runs; nil: the files, while it
	// does not.
	restore func(damage string, a *cluster.Agent) error
}

func oneFile(path ...string) func(*testing.T, *cluster.Agent) []string {
	return func(_ *testing.T, a *cluster.Agent) []string {
		return []string{filepath.Join(append([]string{a.Data}, path...)...)}
	}
}

var folderRows = []folderRow{
	{
		path: "floor.json", files: oneFile("floor.json"),
		use: func(c *testCluster, a *cluster.Agent) { // something is written
			for _, command := range []string{"pause", "resume"} {
				c.onAgent(a, command)
			}
		},
		fates: func(damage, when string) fate {
			switch {
			case when == underIt:
				return fate{back: true}
			case damage == lost:
				return fate{alarm: "the floor file is missing", back: true}
			}
			return fate{alarm: "the floor file is damaged", back: true}
		},
	},
	{
		path: "ballast", files: oneFile("ballast"),
		fates: func(damage, _ string) fate { return fate{back: damage != flipped} },
	},
	{
		path: "db", files: oneFile("db", "MANIFEST"),
		spoil: func(damage, path string) error {
			if damage == lost {
				return os.RemoveAll(filepath.Dir(path))
			}
			return spoilFile(damage, path)
		},
		use: func(c *testCluster, a *cluster.Agent) { // Badger has all in memory until then
			c.kill(a)
			c.up([]*cluster.Agent{a})
		},
		fates: func(string, string) fate { return fate{alarm: "the store was damaged"} },
	},
	{
		path: "artifacts", files: allFiles("artifacts"), use: endSoftware, ends: true,
		fates: func(string, string) fate { return fate{anew: true, back: true} },
	},
	{
		path: "state/N", files: oneFile("state", "2", "acknowledged"), spoil: spoilSlot, restore: restoreSlot, ends: true,
		use: func(c *testCluster, a *cluster.Agent) {
			if _, err := os.Stat(filepath.Join(a.Data, "state", "2")); err != nil {
				endSoftware(c, a)
			}
		},
		fates: func(damage, _ string) fate {
			if damage == lost {
				return fate{alarm: "the state of version 2, which this node runs, is gone", down: true, backup: true}
			}
			return fate{backup: true}
		},
		check: func(t *testing.T, damage string, a *cluster.Agent) {
			if damage != lost {
				untouched("state", "2", "acknowledged")(t, damage, a)
			}
		},
	},
	{
		path: "state/current", files: oneFile("state", "current"), spoil: spoilLink,
		use: func(c *testCluster, a *cluster.Agent) { // nothing asks for it until then
			c.kill(a)
			c.up([]*cluster.Agent{a})
		},
		fates: func(string, string) fate { return fate{back: true} },
	},
	{
		path: "objects/N/past", files: oneFile("objects", "2", "past", "kept"),
		fates: func(string, string) fate { return fate{backup: true} },
		check: untouched("objects", "2", "past", "kept"),
	},
	{
		path: "objects/N/future", files: oneFile("objects", "3", "future", "kept"),
		fates: func(string, string) fate { return fate{backup: true} },
		check: untouched("objects", "3", "future", "kept"),
	},
	{
		path: "process.json", files: oneFile("process.json"), use: endSoftware,
		fates: func(string, string) fate { return fate{anew: true} },
	},
	{
		path: "moult.sock", files: oneFile("moult.sock"),
		spoil: func(damage, path string) error {
			if err := os.Remove(path); err != nil || damage == lost {
				return err
			}
			return os.WriteFile(path, []byte("no socket")[:map[string]int{flipped: 9, truncated: 4}[damage]], 0o600)
		},
		fates: func(_, when string) fate { return fate{unheard: when == underIt} },
	},
	{ // the last, since of these cells a node is left that nobody hears any more
		path: "identity.pem", files: oneFile("identity.pem"),
		fates: func(damage, when string) fate {
			switch {
			case when == underIt:
				return fate{backup: true}
			case damage == lost:
				return fate{alarm: "identity.pem was lost", another: true, backup: true, anew: true}
			}
			return fate{refuses: "restore it from a backup", backup: true}
		},
	},
}

// spoilFile does to a file what the disk does.
func spoilFile(damage, path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case damage == lost:
		return os.Remove(path)
	case damage == flipped:
		return flipBit(path)
	case damage == truncated:
		return unlessBusy(func() error { return os.Truncate(path, fi.Size()/2) })
	}
	return unlessBusy(func() error { return os.Truncate(path, 0) })
}

// unlessBusy tries again while Linux forbids to write to a file, since it is a program that
// is just being started.
func unlessBusy(write func() error) error {
	for {
		if err := write(); !errors.Is(err, syscall.ETXTBSY) {
			return err
		}
	}
}

// spoilLink does so to a link: it is gone, leads nowhere, or is a file.
func spoilLink(damage, path string) error {
	if err := os.Remove(path); err != nil || damage == lost {
		return err
	}
	switch damage {
	case flipped:
		return os.Symlink("3", path)
	case truncated:
		return os.WriteFile(path, []byte("2"), 0o600)
	}
	return os.WriteFile(path, nil, 0o600)
}

// spoilSlot does so to a file of a slot; but what is lost is the whole of it.
func spoilSlot(damage, path string) error {
	if damage == lost {
		return os.Rename(filepath.Dir(path), filepath.Join(filepath.Dir(filepath.Dir(path)), "backup"))
	}
	return spoilFile(damage, path)
}

func restoreSlot(damage string, a *cluster.Agent) error {
	slot := filepath.Join(a.Data, "state", "2")
	if damage == lost {
		return os.Rename(filepath.Join(a.Data, "state", "backup"), slot)
	}
	return os.WriteFile(filepath.Join(slot, "acknowledged"), []byte("kept\n"), 0o600)
}

func allFiles(folder string) func(*testing.T, *cluster.Agent) []string {
	return func(t *testing.T, a *cluster.Agent) (files []string) {
		t.Helper()
		err := filepath.WalkDir(filepath.Join(a.Data, folder), func(path string, e fs.DirEntry, err error) error {
			if fi, serr := os.Stat(path); err == nil && serr == nil && e.Type().IsRegular() && fi.Size() > 0 {
				files = append(files, path)
			}
			return err
		})
		if err != nil || len(files) < 5 {
			t.Fatalf("%d files in %s: %v", len(files), folder, err)
		}
		return files
	}
}

// untouched checks that the agent has left alone what it cannot judge.
func untouched(path ...string) func(*testing.T, string, *cluster.Agent) {
	return func(t *testing.T, damage string, a *cluster.Agent) {
		t.Helper()
		got, err := os.ReadFile(filepath.Join(append([]string{a.Data}, path...)...))
		want := map[string]string{flipped: "keqt\n", truncated: "ke", empty: ""}[damage]
		if damage == lost && !errors.Is(err, fs.ErrNotExist) || damage != lost && (err != nil || string(got) != want) {
			t.Errorf("%s, and then it is %q, %v", damage, got, err)
		}
	}
}

// endSoftware ends the software by force.
func endSoftware(c *testCluster, a *cluster.Agent) {
	c.t.Helper()
	if err := syscall.Kill(c.pid(a), syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
}

// onAgent runs a command that an operator signs.
func (c *testCluster) onAgent(a *cluster.Agent, command string, args ...string) {
	c.t.Helper()
	if code, _, errs := c.command(a, append([]string{command, "--trust", c.trustDir()}, args...)...); code != exitDone {
		c.t.Fatalf("%s: exit code %d, %s", command, code, errs)
	}
}

// folderCluster is two nodes at release 2, whose past object has state, that wait for
// release 3, whose future object has.
func folderCluster(t *testing.T) *testCluster {
	t.Helper()
	c := settledSmall(t, 2)
	const compatible, program = "compatible = true", `exec = ["./small"]`
	release := func(v bundle.Version, past, future, strategy string) {
		simulations := fmt.Sprintf("past {\n %s\n}\nfuture {\n %s\n}\n", past, future)
		text := fmt.Sprintf(smallSpec, v, fmt.Sprintf("from = %d", v-1), runtime.GOOS, runtime.GOARCH, simulations)
		if err := c.inject(c.Agents[0], c.bundle(v, strings.Replace(text, `"rolling"`, strategy, 1))); err != nil {
			t.Fatal(err)
		}
	}
	release(2, program, compatible, `"rolling"`)
	for _, a := range c.Agents {
		c.settledAt(a, 2, 2)
	}
	release(3, compatible, program, `"manual"`)
	return c
}

// TestDataFolder loses and damages each thing in a node's data folder, under the running
// agent and before it starts. Nothing that was acknowledged is lost, the node never goes
// down for a release by it, and afterwards it is where it was.
func TestDataFolder(t *testing.T) {
	inCluster(t)
	t.Parallel()
	f := newFolder(t)
	for _, row := range folderRows {
		for _, damage := range damages {
			for _, when := range []string{underIt, beforeIt} {
				if !f.cell(row, damage, when) {
					return // those that follow would show nothing
				}
			}
		}
	}
}

// folder is the node whose data folder is tried.
type folder struct {
	t    *testing.T
	c    *testCluster
	a    *cluster.Agent
	id   bundle.NodeID
	kept []string // files that only a backup brings back
}

func newFolder(t *testing.T) *folder {
	f := &folder{t: t, c: folderCluster(t)}
	f.a = f.c.Agents[0]
	info, err := f.a.API.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.id = info.ID
	f.settled("at first")
	for _, path := range [][]string{{"state", "2", "acknowledged"}, {"objects", "2", "past", "kept"}, {"objects", "3", "future", "kept"}} {
		file := filepath.Join(append([]string{f.a.Data}, path...)...)
		kit.Until(t, file, func() bool { return os.WriteFile(file, []byte("kept\n"), 0o600) == nil })
		f.kept = append(f.kept, file)
	}
	return f
}

// settled waits until the node is where it was: at version 2, with its software up and its
// objects running, and waiting for release 3.
func (f *folder) settled(when string, not ...int) (pid int) {
	f.t.Helper()
	f.c.until(f.a, when+": the node to wait for release 3", func(s control.Status) bool {
		info, err := f.a.API.Info(f.t.Context())
		pid = info.NodePID
		objects := 0
		for _, o := range s.Local.Objects {
			if o.State == control.ObjectRunning && o.PID != 0 {
				objects++
			}
		}
		i := slices.IndexFunc(s.Nodes, func(n control.NodeStatus) bool { return n.ID == info.ID })
		return err == nil && pid != 0 && !slices.Contains(not, pid) && i >= 0 && objects == 2 && s.Nodes[i].Version == 2 && s.Nodes[i].Phase == string(view.Waiting) && s.Nodes[i].Health != string(view.HealthUnknown)
	})
	return pid
}

// cell is one thing that is done to one file, at one time.
func (f *folder) cell(row folderRow, damage, when string) bool {
	t, c, a := f.t, f.c, f.a
	return t.Run(strings.Join([]string{row.path, damage, when}, ", "), func(t *testing.T) {
		defer func(outer *testing.T) { f.t, c.t = outer, outer }(f.t)
		f.t, c.t = t, t
		fate, files := row.fates(damage, when), row.files(t, a)
		pid := f.settled("before")
		backup := map[string][]byte{}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err == nil {
				backup[file] = data
			}
		}
		if when == beforeIt {
			c.kill(a)
			if row.ends && (fate.anew || fate.down) {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		spoil := spoilFile
		if row.spoil != nil {
			spoil = row.spoil
		}
		for _, file := range files {
			if err := spoil(damage, file); err != nil {
				t.Fatal(err)
			}
		}
		switch {
		case when == beforeIt:
			c.up([]*cluster.Agent{a})
		case row.use != nil:
			row.use(c, a)
		}
		f.follow(fate, pid)
		if row.check != nil {
			row.check(t, damage, a)
		}
		if fate.back {
			f.isBack(files, backup)
		}
		if fate.backup {
			f.restore(row, damage, files, backup)
		}
		for _, file := range f.kept {
			if data, err := os.ReadFile(file); err != nil || string(data) != "kept\n" {
				t.Errorf("%s has %q, %v", file, data, err)
			}
		}
	})
}

// follow waits for what becomes of the node.
func (f *folder) follow(fate fate, pid int) {
	t, c, a := f.t, f.c, f.a
	t.Helper()
	if fate.refuses != "" {
		<-a.Ended
		log, err := os.ReadFile(a.LogPath())
		if err != nil || !bytes.Contains(log[bytes.LastIndexByte(bytes.TrimSpace(log), '\n')+1:], []byte(fate.refuses)) {
			t.Errorf("it does not say why it does not start: %v", err)
		}
		if !kit.Alive(pid) {
			t.Error("and its software has ended")
		}
		return
	}
	if fate.unheard {
		if code, _, _ := c.command(a, "status"); code == exitDone || !kit.Alive(pid) {
			t.Errorf("exit code %d, and the software is alive: %v", code, kit.Alive(pid))
		}
		c.kill(a)
		c.up([]*cluster.Agent{a})
	}
	if fate.alarm != "" {
		c.until(a, "the alarm", func(s control.Status) bool {
			return slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.Contains(text, fate.alarm) })
		})
	}
	info, err := a.API.Info(t.Context())
	if fate.down {
		if err != nil || info.NodePID != 0 {
			t.Errorf("process %d runs without its state: %v", info.NodePID, err)
		}
		return
	}
	if fate.another {
		if err != nil || info.ID == f.id {
			t.Errorf("it is the same node: %v", err)
		}
		return
	}
	if fate.anew {
		f.settled("afterwards, with software that was started anew", pid)
	} else if now := f.settled("afterwards"); now != pid {
		t.Errorf("the software is process %d, and was %d", now, pid)
	}
	if info, err = a.API.Info(t.Context()); err != nil || info.ID != f.id {
		t.Errorf("it is another node: %v", err)
	}
}

// isBack waits until files are again what they have to be: what is reached by hash is what
// it was, the rest is good.
func (f *folder) isBack(files []string, backup map[string][]byte) {
	f.t.Helper()
	for _, file := range files {
		if _, err := bundle.ParseManifest(backup[file]); err != nil && strings.Contains(file, "blobs") {
			continue // an order or a set, which may have been superseded
		}
		kit.Until(f.t, file+" to be back", func() bool {
			data, err := os.ReadFile(file)
			switch {
			case filepath.Base(file) == "current":
				target, err := os.Readlink(file)
				return err == nil && target == "2"
			case filepath.Base(file) == "floor.json":
				return err == nil && json.Valid(data)
			case filepath.Base(file) == "ballast":
				return err == nil && len(data) == len(backup[file])
			}
			return err == nil && bytes.Equal(data, backup[file])
		})
	}
}

// restore brings the files back, as an operator does.
func (f *folder) restore(row folderRow, damage string, files []string, backup map[string][]byte) {
	f.t.Helper()
	if row.restore != nil {
		if err := row.restore(damage, f.a); err != nil {
			f.t.Fatal(err)
		}
		f.settled("with its backup")
		return
	}
	if f.a.Alive() == nil {
		f.c.kill(f.a)
	}
	for _, file := range files {
		if err := os.WriteFile(file, backup[file], 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	f.c.up([]*cluster.Agent{f.a})
	f.settled("with its backup")
}

// TestDocDataFolder compares the table of docs/operations.md with what TestDataFolder tries.
func TestDocDataFolder(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## The data folder\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var rows, tried []string
	for _, line := range strings.Split(section, "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			rows = append(rows, m[1])
		}
	}
	for _, row := range folderRows {
		tried = append(tried, row.path)
	}
	slices.Sort(rows)
	slices.Sort(tried)
	if len(rows) == 0 || !slices.Equal(rows, tried) {
		t.Errorf("the table has %q, and %q is tried", rows, tried)
	}
}

// flipBit changes one bit in the middle of a file.
func flipBit(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return unlessBusy(func() error { return os.WriteFile(path, data, 0o755) })
}

// pid is that of the node's software, once it is not just being started.
func (c *testCluster) pid(a *cluster.Agent) (pid int) {
	c.t.Helper()
	c.until(a, "the software to run", func(control.Status) bool {
		info, err := a.API.Info(c.t.Context())
		pid = info.NodePID
		return err == nil && pid != 0
	})
	return pid
}

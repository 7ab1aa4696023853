package objects

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/agent/control"
	"moult/simlayer/host"
	"moult/store/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// owner owns Objects whose host and files are the test's.
type owner struct {
	*Objects
	t      *testing.T
	now    time.Time
	told   chan Event
	sought chan Object // gets each look for a file
	found  chan error  // ends it
	disk   bool        // whether everything is on the disk
	rules  []byte      // every file of rules; read counts
	read   int
	memory []byte
	dir    string
	alarms []string

	refuse error
	sets   []host.Objects
	handed map[string]bool
	ended  chan struct{} // what the last Set returned
}

// Has and the next are the depot.
func (o *owner) Has(bundle.Digest) bool     { return o.disk }
func (o *owner) HasBlob(bundle.Digest) bool { return o.disk }

func (o *owner) Blob(bundle.Digest) ([]byte, bool, error) {
	o.read++
	return o.rules, o.rules != nil, nil
}

func (o *owner) BlobPath(d bundle.Digest) string { return d.Short() }

// Future and Past are the folders of state.
func (o *owner) Future(v bundle.Version) (string, error) { return o.state("future", v) }
func (o *owner) Past(v bundle.Version) (string, error)   { return o.state("past", v) }

// Hand notes whose folders are.
func (o *owner) Hand(dir string, program bool) error {
	if o.handed == nil {
		o.handed = map[string]bool{}
	}
	o.handed[dir] = program
	return nil
}

func (o *owner) state(side string, v bundle.Version) (string, error) {
	dir := filepath.Join(o.dir, side, fmt.Sprint(v))
	return dir, os.MkdirAll(dir, 0o700)
}

func (o *owner) Load() ([]byte, bool, error) { return o.memory, o.memory != nil, nil }

func (o *owner) Save(data []byte) error {
	o.memory = data
	return nil
}

// processes is the host.
type processes struct{ *owner }

func (p processes) Set(_ context.Context, s host.Objects) (<-chan struct{}, error) {
	p.sets = append(p.sets, s)
	return p.ended, p.refuse
}

func (processes) Addrs(v bundle.Version) map[string]string {
	return map[string]string{"api": fmt.Sprint(v)}
}
func (processes) Stats() []host.Stats { return nil }
func (processes) Close() error        { return nil }

func newOwner(t *testing.T) *owner {
	t.Helper()
	o := &owner{
		t: t, now: time.Unix(1e9, 0), dir: t.TempDir(), ended: make(chan struct{}),
		told: make(chan Event, 16), sought: make(chan Object, 16), found: make(chan error),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	o.Objects = New(Config{
		Depot: o, States: o, Memory: o, Log: slog.New(slog.DiscardHandler),
		Start: func() (Host, error) { return processes{o}, nil },
		Get: func(ctx context.Context, one Object) (string, error) {
			o.sought <- one
			select {
			case err := <-o.found:
				return "/here", err
			case <-ctx.Done():
				return "", ctx.Err()
			}
		},
		Go:    func(f func(context.Context)) { work.Go(func() { f(ctx) }) },
		Tell:  func(e Event) { o.told <- e },
		Alarm: func(text string) { o.alarms = append(o.alarms, text) },
	})
	t.Cleanup(func() {
		cancel()
		work.Wait()
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

const hold = 30 * time.Second

// is arranges for a node of a version, up, whose software listens at an address.
func (o *owner) is(v bundle.Version, addr string) {
	o.Arrange(Node{Native: v, Settled: v, Backends: map[string]string{"api": addr}, Up: true, Hold: hold}, o.now)
}

// take takes the next event in.
func (o *owner) take() {
	o.t.Helper()
	select {
	case e := <-o.told:
		o.Take(e, o.now)
	case <-time.After(20 * time.Second):
		o.t.Fatal("told nothing")
	}
}

func (o *owner) leads() (vs []bundle.Version) {
	for v := range o.Lead(true) {
		vs = append(vs, v)
	}
	slices.Sort(vs)
	return vs
}

// program is the future object of release 2, a program.
var program = Object{Callers: 2, To: 1, Release: 2, What: bundle.Simulation{Kind: bundle.SimulateExec, Exec: []string{"./object"}}, Program: bundle.Sum([]byte("program"))}

// Callers are held until the objects go by the software that is there, and led to
// those only then; but nobody is held for longer than calls are.
func TestHold(t *testing.T) {
	o := newOwner(t)
	o.disk = true
	o.Offer(map[bundle.Version]Object{2: program})
	o.is(1, "a")
	if !o.Holds(false, o.now) || len(o.leads()) != 0 {
		t.Error("callers are let in before it is known whether the program is good")
	}
	if o.Holds(true, o.now) {
		t.Error("callers who are let in already are held for the first object's sake")
	}
	if o.Holds(false, o.now.Add(hold+1)) {
		t.Error("callers are held for longer than calls")
	}
	<-o.sought
	o.found <- nil
	o.take()
	o.is(1, "a")
	o.Follow(o.now)
	if !o.Holds(false, o.now) || len(o.leads()) != 0 {
		t.Error("callers are let in before the object goes by the software")
	}
	if o.Holds(false, o.now.Add(hold+1)) {
		t.Error("callers are held for longer than calls")
	}
	o.take()
	if o.Holds(false, o.now) || !slices.Equal(o.leads(), []bundle.Version{2}) {
		t.Errorf("the object is in force: callers of %v are led", o.leads())
	}
	if done, err := o.Following(); done == nil || err != nil {
		t.Errorf("what the change left over has not ended: %v", err)
	}
	close(o.ended)
	o.take()
	if done, err := o.Following(); done != nil || err != nil {
		t.Errorf("it has ended: %v", err)
	}
	o.is(1, "b")
	if !o.Holds(true, o.now) || len(o.leads()) != 0 {
		t.Error("callers are let in to an object that calls where the software was")
	}
	if len(o.sets) != 1 || o.sets[0].Node["api"] != "a" {
		t.Errorf("set: %+v", o.sets)
	}
}

// What cannot be changed is said, waited for no more, and tried again.
func TestRefused(t *testing.T) {
	o := newOwner(t)
	o.refuse = errors.New("planted")
	o.Offer(map[bundle.Version]Object{2: program})
	o.is(1, "a")
	<-o.sought
	o.found <- nil
	o.take()
	o.is(1, "a")
	o.Follow(o.now)
	done, _ := o.Following()
	o.take()
	<-done
	if _, err := o.Following(); !errors.Is(err, o.refuse) || o.Holds(false, o.now) || len(o.alarms) != 1 {
		t.Errorf("%v; held: %v; alarms: %q", err, o.Holds(false, o.now), o.alarms)
	}
	o.Follow(o.now)
	if done, _ := o.Following(); done != nil {
		t.Error("it is tried again at once")
	}
	o.refuse, o.now = nil, o.now.Add(minPause)
	o.Follow(o.now)
	o.take()
	if !slices.Equal(o.leads(), []bundle.Version{2}) {
		t.Errorf("callers of %v are led", o.leads())
	}
}

// What an object runs from is looked for once at a time; that it is not on the disk,
// or not good, holds nobody; and it is forgotten with the object.
func TestSeek(t *testing.T) {
	o := newOwner(t)
	o.disk = true
	o.Offer(map[bundle.Version]Object{2: program})
	for range 5 {
		o.is(1, "a")
		o.now = o.now.Add(placePause)
	}
	if got := <-o.sought; got.Program != program.Program {
		t.Errorf("looked for %+v", got)
	}
	o.found <- errors.New("not good")
	o.take()
	o.is(1, "a")
	if o.Holds(false, o.now) {
		t.Error("callers are held until it is fetched")
	}
	<-o.sought // again, after a pause
	o.found <- nil
	o.take()
	o.is(1, "a")
	if len(o.sought) != 0 || o.library.paths[program.Program] != "/here" {
		t.Errorf("looked for %d more times; found %v", len(o.sought), o.library.paths)
	}
	o.Offer(nil)
	if len(o.library.paths) != 0 {
		t.Errorf("files of no object are kept: %v", o.library.paths)
	}
}

// Nothing is looked for where a release has no program for this machine.
func TestNoProgram(t *testing.T) {
	o := newOwner(t)
	without := program
	without.Program = bundle.Digest{}
	o.Offer(map[bundle.Version]Object{2: without})
	o.is(1, "a")
	if !slices.Equal(o.leads(), []bundle.Version{2}) || o.Lead(true)[2].Local == nil || len(o.library.seeking) != 0 {
		t.Errorf("led to %+v; looked for: %v", o.Lead(true), o.library.seeking)
	}
}

// The state of a program is the account's, that of what runs in moult's process is not.
func TestHanded(t *testing.T) {
	for kind, want := range map[string]bool{bundle.SimulateExec: true, bundle.SimulateWasm: false} {
		o := newOwner(t)
		o.disk = true
		one := program
		one.What.Kind = kind
		o.Offer(map[bundle.Version]Object{2: one})
		o.is(1, "a")
		<-o.sought
		o.found <- nil
		o.take()
		o.is(1, "a")
		got, handed := o.handed[filepath.Join(o.dir, "future", "2")]
		if !handed || got != want {
			t.Errorf("%s: handed %v, to a program %v, want %v", kind, handed, got, want)
		}
	}
}

// Rules that do not parse are refused, and read once.
func TestBadRules(t *testing.T) {
	o := newOwner(t)
	all := map[bundle.Version]Object{1: {Callers: 1, To: 2, Release: 2, Past: true, What: bundle.Simulation{Kind: bundle.SimulateRules, Rules: bundle.Chunk{Digest: bundle.Sum([]byte("rules"))}}}}
	o.Offer(all)
	o.is(2, "a")
	if len(o.leads()) != 0 {
		t.Error("callers are led to rules that are not here")
	}
	o.rules = []byte("call {")
	for range 3 {
		o.Offer(all)
		o.is(2, "a")
	}
	if o.Lead(true)[1].Local == nil || o.read != 2 || len(o.alarms) != 1 {
		t.Errorf("led to %+v; read %d times; alarms %q", o.Lead(true), o.read, o.alarms)
	}
	if s := o.Status()[0]; s.State != control.ObjectBroken || s.Problem != badRules {
		t.Errorf("%+v", s)
	}
}

// Which objects were ever told of calls is durable, and forgotten when the node has
// come past them; where that was lost, their state tells.
func TestWasObserving(t *testing.T) {
	o := newOwner(t)
	o.is(1, "a")
	was := func(v bundle.Version) bool {
		t.Helper()
		before, err := o.wasObserving(v)
		if err != nil {
			t.Fatal(err)
		}
		return before
	}
	kept := func() (releases []bundle.Version) {
		if err := json.Unmarshal(o.memory, &releases); err != nil {
			t.Fatal(err)
		}
		return releases
	}
	if was(2) || !was(2) || was(3) || !slices.Equal(kept(), []bundle.Version{2, 3}) {
		t.Errorf("recorded: %v", kept())
	}
	o.is(2, "a")
	if was(4) || !slices.Equal(kept(), []bundle.Version{3, 4}) {
		t.Errorf("after release 2 is settled: %v", kept())
	}
	dir, err := o.Future(5)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !was(5) {
		t.Error("an object that has state was never told of anything")
	}
}

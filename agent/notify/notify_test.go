//go:build unix

package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"moult/agent/report"
	"moult/store/bundle"
	"moult/testdata/kit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	held  = report.Condition{Kind: report.KindHeld, Key: "held 2", Release: 2, Text: "its transform failed"}
	alarm = report.Condition{Kind: report.KindAlarm, Key: "alarm disk", Text: "the disk is full"}
	done1 = report.Condition{Kind: report.KindComplete, Key: "complete 1.0", Release: 1, State: "complete"}
	done2 = report.Condition{Kind: report.KindComplete, Key: "complete 2.0", Release: 2, State: "complete"}
)

// bench is a folder with a program that is told, and a ledger.
type bench struct {
	t   *testing.T
	dir string
	cfg Config
	now time.Time
}

func newBench(t *testing.T, script string) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), now: began}
	program := filepath.Join(b.dir, "tell")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.cfg = Config{
		Command: []string{program, b.dir, "two words; $HOME"}, Env: []string{"PATH=" + os.Getenv("PATH"), "ONLY=this"}, Ledger: filepath.Join(b.dir, "events.json"),
		Source: Source{Cluster: bundle.Sum([]byte("c")), Node: "n1", ID: bundle.NodeID{7}, Class: "kv"}, Log: slog.New(slog.DiscardHandler),
	}
	return b
}

func (b *bench) start() *Notifier {
	n := Start(b.cfg)
	b.t.Cleanup(func() { n.Close() })
	return n
}

// hold has conditions hold for so long that they are told.
func (b *bench) hold(n *Notifier, all ...report.Condition) {
	for range 2 {
		n.Observe(b.now, true, all)
		b.now = b.now.Add(steadyTime)
	}
}

func (b *bench) file(name string) string {
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil && !os.IsNotExist(err) {
		b.t.Fatal(err)
	}
	return string(data)
}

// events are those that the program has noted in the file "out".
func (b *bench) events() (all []Event) {
	for line := range strings.Lines(b.file("out")) {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			break // half of a line
		}
		all = append(all, e)
	}
	return all
}

func (b *bench) words() (all []string) {
	for _, e := range b.events() {
		all = append(all, strings.TrimPrefix(e.Event+" "+e.Of, " ")+"/"+e.Key)
	}
	return all
}

// kept waits until the ledger says what is to be told no more.
func (b *bench) kept(missed int, keys ...string) {
	b.t.Helper()
	kit.Until(b.t, fmt.Sprintf("a ledger with %q and %d missed", keys, missed), func() bool {
		l, err := readLedger(b.cfg.Ledger)
		var have []string
		for _, c := range l.Told {
			have = append(have, c.Key)
		}
		return err == nil && slices.Equal(have, keys) && l.Missed == missed
	})
}

// A program is told each thing once, when it begins and when it has ended, with nothing in its
// environment but what it is given and no shell between.
func TestTold(t *testing.T) {
	b := newBench(t, `cat >> "$1/out"; echo "$2|$MOULT_NODE|$ONLY" > "$1/said"; pwd > "$1/in"; env > "$1/env"`)
	t.Setenv("SECRET_OF_THE_AGENT", "x")
	n := b.start()
	b.hold(n, held, alarm)
	b.hold(n, held, alarm)
	b.kept(0, alarm.Key, held.Key)
	b.hold(n, held)
	b.kept(0, held.Key)
	if got := b.words(); !slices.Equal(got, []string{"held /held 2", "alarm /alarm disk", "cleared alarm/alarm disk"}) {
		t.Errorf("told %q", got)
	}
	want := Event{
		Event: "held", Key: "held 2", Time: began.Add(steadyTime), Cluster: bundle.Sum([]byte("c")), Node: "n1", ID: bundle.NodeID{7}, Class: "kv",
		Release: 2, Text: "its transform failed",
	}
	if got := b.events()[0]; got != want {
		t.Errorf("told %+v, want %+v", got, want)
	}
	if got := b.file("said"); got != "two words; $HOME||this\n" {
		t.Errorf("the program has %q", got)
	}
	if got := b.file("in"); got != "/\n" {
		t.Errorf("it runs in %q", got)
	}
	if strings.Contains(b.file("env"), "SECRET") {
		t.Errorf("its environment is %s", b.file("env"))
	}
}

// What was told is not told again by the next agent, but what has ended meanwhile is.
func TestRestart(t *testing.T) {
	b := newBench(t, `cat >> "$1/out"`)
	n := b.start()
	b.hold(n, done1) // it was so before anybody was told anything
	b.kept(0, done1.Key)
	b.hold(n, held, alarm, done1)
	b.kept(0, alarm.Key, done1.Key, held.Key)
	n.Close()
	n = b.start()
	n.Observe(b.now, true, nil) // it has just begun, and knows nothing yet
	b.hold(n, held, done1)
	b.hold(n, held, alarm, done1) // found again late
	b.hold(n, done2)
	b.kept(0, done2.Key)
	b.hold(n) // a node has joined, so it is not complete for a while
	b.hold(n, done2)
	b.hold(n, alarm, done2)
	b.kept(0, alarm.Key, done2.Key)
	got := b.words()
	slices.Sort(got[2:5])
	if want := []string{
		"held /held 2", "alarm /alarm disk", "cleared alarm/alarm disk", "cleared held/held 2", "complete /complete 2.0", "alarm /alarm disk",
	}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// What an earlier agent has told, and this one does not find again, has ended after the grace.
func TestGrace(t *testing.T) {
	w := newWatch(Source{}, []report.Condition{alarm, held}, false)
	for _, at := range []time.Duration{0, steadyTime, graceTime - 1} {
		if news := w.see(began.Add(at), true, []report.Condition{held}); len(news) > 0 {
			t.Fatalf("after %v it tells %+v", at, news)
		}
	}
	news := w.see(began.Add(graceTime), true, nil) // of what it has seen itself the end must be steady, no more
	if len(news) != 1 || news[0].event.Event != Cleared || news[0].event.Key != alarm.Key {
		t.Errorf("after the grace it tells %+v", news)
	}
	if news := w.see(began.Add(graceTime+steadyTime), true, nil); len(news) != 1 || news[0].event.Key != held.Key {
		t.Errorf("of what it has seen it tells %+v", news)
	}
	if len(w.earlier)+len(w.gone)+len(w.told) > 0 {
		t.Errorf("it keeps %v, %v and %v", w.earlier, w.gone, w.told)
	}
}

// A new node learns of its cluster's releases bit by bit, and may be restarted meanwhile; that
// one is complete which was there before it is not told.
func TestNewNode(t *testing.T) {
	b := newBench(t, `cat >> "$1/out"`)
	n := b.start()
	see := func(part bool, all ...report.Condition) {
		for range 2 {
			n.Observe(b.now, part, all)
			b.now = b.now.Add(steadyTime)
		}
	}
	see(false, alarm) // it hears nobody yet
	b.kept(0, alarm.Key)
	n.Close()
	n = b.start()
	see(false, alarm)
	see(false, alarm, done1)
	b.kept(0, alarm.Key, done1.Key)
	see(true, alarm)
	see(true, alarm, done2)
	b.kept(0, alarm.Key, done2.Key)
	if got, want := b.words(), []string{"alarm /alarm disk", "complete /complete 2.0"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// An agent that ends ends the command with its process group, and the next one tells again
// what was not told.
func TestEndsGroup(t *testing.T) {
	b := newBench(t, `cat >> "$1/out"; [ -e "$1/go" ] && exit; exec 3> "$1/alive"; sleep 1000 & sleep 1000`)
	alive := filepath.Join(b.dir, "alive")
	if err := unix.Mkfifo(alive, 0o600); err != nil {
		t.Fatal(err)
	}
	n := b.start()
	b.hold(n, held)
	r, err := os.Open(alive) // once the program has begun
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n.Close()
	if _, err := io.ReadAll(r); err != nil { // as long as anybody of the group lives
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n = b.start()
	b.hold(n, held)
	b.kept(0, held.Key)
	if got := b.words(); !slices.Equal(got, []string{"held /held 2", "held /held 2"}) {
		t.Errorf("told %q", got)
	}
}

// A command that takes too long, fails, or is not there has missed an event, which the next one
// says, and so does the next agent; what it prints is bounded, and logged.
func TestMissed(t *testing.T) {
	b := newBench(t, `case $(ls "$1/mode") in slow) sleep 1000;; bad) yes no good | head -c 100000; exit 3;; esac; cat >> "$1/out"; echo heard`)
	mode := func(name string) {
		for _, step := range []func() error{
			func() error { return os.RemoveAll(filepath.Join(b.dir, "mode")) },
			func() error { return os.MkdirAll(filepath.Join(b.dir, "mode", name), 0o700) },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var log bytes.Buffer
	b.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	mode("slow")
	n := start(b.cfg, 100*time.Millisecond)
	b.hold(n, held)
	b.kept(1, held.Key)
	n.Close()
	mode("bad")
	n = b.start()
	b.hold(n, held, alarm)
	b.kept(2, alarm.Key, held.Key)
	mode("good")
	b.hold(n, alarm)
	b.kept(0, alarm.Key)
	n.Close()
	if all := b.events(); len(all) != 1 || all[0].Missed != 2 || all[0].Event != Cleared {
		t.Errorf("told %+v", all)
	}
	for _, want := range []string{"it has not ended within 100ms", "exit status 3: no good no good", "output=heard"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%.3000s", want, log.String())
		}
	}
	if log.Len() > 3000 {
		t.Errorf("the log has %d bytes", log.Len())
	}
}

// Who observes never waits; of events that wait the newest are kept, one program runs at a
// time, and what was dropped is said.
func TestBounded(t *testing.T) {
	b := newBench(t, `mkdir "$1/one" || echo two >> "$1/fault"; cat >> "$1/out"; [ -e "$1/go" ] || read line < "$1/gate"; rmdir "$1/one"`)
	gate := filepath.Join(b.dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := os.OpenFile(gate, os.O_RDWR, 0) // so that it does not wait for a reader: one that sees "go" first is none
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	n := b.start()
	b.hold(n, held)
	kit.Until(t, "the program", func() bool { return b.file("out") != "" })
	all := []report.Condition{held}
	var keys []string
	for i := range maxWaiting + 10 {
		all = append(all, report.Condition{Kind: report.KindAlarm, Key: fmt.Sprintf("alarm %03d", i)})
		keys = append(keys, all[i+1].Key)
	}
	b.hold(n, all...)
	if err := os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := opened.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	b.kept(0, append(keys, held.Key)...)
	told := b.events()
	if len(told) != 1+maxWaiting || told[0].Missed != 0 || told[1].Missed != 10 || told[2].Missed != 0 || told[1].Key != "alarm 010" {
		t.Errorf("told %d events, and then %+v", len(told), told[:min(len(told), 3)])
	}
	if b.file("fault") != "" {
		t.Error("two programs ran at once")
	}
}

// A condition that comes and goes is not told.
func TestUnsteady(t *testing.T) {
	w := newWatch(Source{}, nil, false)
	now := began
	for range 10 {
		if news := append(w.see(now, true, []report.Condition{alarm}), w.see(now.Add(steadyTime-1), true, nil)...); len(news) > 0 {
			t.Fatalf("told %+v", news)
		}
		now = now.Add(steadyTime)
	}
	w.see(now, true, []report.Condition{alarm})
	if news := w.see(now.Add(steadyTime), true, []report.Condition{alarm}); len(news) != 1 {
		t.Errorf("told %+v", news)
	}
	if len(w.begun)+len(w.gone) > 0 {
		t.Errorf("it keeps %v and %v", w.begun, w.gone)
	}
}

// A ledger that is no ledger is told of, and all is told again.
func TestBadLedger(t *testing.T) {
	b := newBench(t, `cat >> "$1/out"`)
	if err := os.WriteFile(b.cfg.Ledger, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	n := b.start()
	b.hold(n, held)
	b.kept(0, held.Key)
	n.Close()
	if !strings.Contains(log.String(), "some are told again") || len(b.events()) != 1 {
		t.Errorf("%s, %q", log.String(), b.words())
	}
}

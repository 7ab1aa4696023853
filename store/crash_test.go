package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"moult/testdata/kit"
)

const childKeep = 50 // entries of the journal at least

// childAppend writes for ever, and tells on stdout what has been acknowledged.
func childAppend(dir string) {
	s, err := Open(dir, Options{Keep: childKeep})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	if d := s.Damage(); d != nil {
		fmt.Println("error damaged:", d.What)
		return
	}
	for i := 0; ; i++ {
		e, err := s.Append("k", fmt.Append(nil, os.Getpid(), i))
		if err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("entry", e.Seq, e.Hash)
		if err := s.Put("docs", fmt.Sprint("key", i%5), fmt.Append(nil, e.Seq)); err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("doc", i%5, e.Seq)
		if err := s.Raise(func(f *Floor) { f.RecordSeq = e.Seq }); err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("floor", e.Seq)
	}
}

// TestKillWhileWriting kills a writer at random moments, over and over on one
// data folder: whatever it has been told is durable is there, and the chain holds.
func TestKillWhileWriting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 25 {
		acked := killedWriter(t, dir, rng.IntN(60))
		s, err := Open(dir, Options{Keep: childKeep})
		must(t, err)
		if d := s.Damage(); d != nil {
			t.Fatalf("round %d: %+v", round, d)
		}
		got := map[string]string{"floor": strconv.FormatUint(s.Floor().RecordSeq, 10)}
		must(t, s.Journal(0, func(e Entry) error {
			got[fmt.Sprint("entry ", e.Seq)] = e.Hash.String()
			return nil
		}))
		must(t, s.Each("docs", func(k string, v []byte) error { got["doc "+strings.TrimPrefix(k, "key")] = string(v); return nil }))
		for what, value := range acked {
			have, ok := got[what]
			if seq, isEntry := strings.CutPrefix(what, "entry "); isEntry {
				if n, _ := strconv.ParseUint(seq, 10, 64); n+childKeep <= s.Floor().JournalSeq {
					continue // trimmed
				}
				if have != value {
					t.Fatalf("round %d: %s: %q, acknowledged %q", round, what, have, value)
				}
				continue
			}
			// The last write may be there without having been acknowledged.
			h, _ := strconv.ParseUint(have, 10, 64)
			v, _ := strconv.ParseUint(value, 10, 64)
			if !ok || h < v {
				t.Fatalf("round %d: %s is %q, acknowledged %q", round, what, have, value)
			}
		}
		mustClose(t, s)
	}
}

// killedWriter starts a writer, kills it after some acknowledgements and
// returns the last of each thing that was acknowledged.
func killedWriter(t *testing.T, dir string, after int) map[string]string {
	t.Helper()
	cmd := kit.Child(childEnv+"=append", childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	acked := map[string]string{}
	r := bufio.NewReader(out)
	for n := 0; ; n++ {
		if n == after {
			must(t, cmd.Process.Kill())
		}
		line, err := r.ReadString('\n') // what was said before the kill is read, too
		if err == io.EOF {
			break
		}
		must(t, err)
		f := strings.Fields(line)
		switch f[0] {
		case "entry", "doc":
			acked[f[0]+" "+f[1]] = f[2]
		case "floor":
			acked["floor"] = f[1]
		default:
			t.Fatal(line)
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the writer ended by itself")
	}
	return acked
}

// childFatal is an agent whose database ends the process when it is opened.
func childFatal(dir string) {
	s, err := Open(dir, Options{outside: outside{opening: func() { os.Exit(7) }}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Damage().What)
}

func TestDatabaseThatEndsTheProcess(t *testing.T) {
	dir := kit.MemDir(t)
	s := mustOpen(t, dir, Options{})
	mustAppend(t, s, "k", "1")
	floor := s.Floor()
	mustClose(t, s)
	for i := range maxCrashedOpens {
		err := kit.Child(childEnv+"=fatal", childDir+"="+dir).Run()
		ee, ok := errors.AsType[*exec.ExitError](err)
		if !ok || ee.ExitCode() != 7 {
			t.Fatalf("open %d: %v", i, err)
		}
	}
	out, err := kit.Child(childEnv+"=fatal", childDir+"="+dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "has ended the process 3 times") {
		t.Fatalf("got %s (%v)", out, err)
	}
	s = mustOpen(t, dir, Options{})
	if err := floor.lowered(s.Floor()); err != nil || s.Damage() == nil {
		t.Fatalf("floor %v, damage %+v", err, s.Damage())
	}
}

// childResident is an idle agent's store with five peers known.
func childResident(dir string) {
	before := resident()
	s, err := Open(dir, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := range 5 {
		if err := s.Put("peers", fmt.Sprint(i), make([]byte, 4<<10)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	for i := range 200 {
		if _, err := s.Append("k", make([]byte, 300)); err != nil {
			fmt.Println(i, err)
			os.Exit(1)
		}
	}
	fmt.Println(before, resident())
}

// resident returns this process's resident memory in KiB.
func resident() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return n
}

// TestResidentMemory guards the sizes in limits.go: with Badger's defaults the
// store alone takes more than an idle agent may.
func TestResidentMemory(t *testing.T) {
	if resident() == 0 {
		t.Skip("no /proc")
	}
	out, err := kit.Child(childEnv+"=resident", childDir+"="+kit.MemDir(t)).Output()
	must(t, err)
	var before, after int
	_, err = fmt.Sscan(string(out), &before, &after)
	must(t, err)
	t.Logf("resident before %d KiB, with an open store %d KiB", before, after)
	if raceEnabled {
		t.Skip("the race detector's memory is not ours")
	}
	if after-before > 12<<10 {
		t.Errorf("the store takes %d KiB", after-before)
	}
}

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"

	"moult/testdata/kit"
)

// fill writes n journal entries and documents, in turn, and some of the floor.
func fill(t testing.TB, s *Store, n int) {
	t.Helper()
	for i := range n {
		mustAppend(t, s, "phase", fmt.Sprintf("entry %d %s", i, strings.Repeat("e", i%50)))
		must(t, s.Put("docs", fmt.Sprintf("key-%03d", i%40), fmt.Appendf(nil, "value %d", i)))
	}
	must(t, s.Raise(func(f *Floor) { f.Release = 7 }))
}

// density thins out what the race detector makes slow.
func density(n int) int {
	if raceEnabled {
		return n / 12
	}
	return n
}

// outcome of opening a data folder that something was done to.
type outcome int

const (
	harmless outcome = iota
	reported         // damage reported, the floor kept
	refused
	silent // something is missing, and nobody says so
)

func (o outcome) String() string {
	return [...]string{"harmless", "reported", "refused", "silent"}[o]
}

func openDamaged(t testing.TB, dir, want string, wantFloor Floor, o Options) outcome {
	t.Helper()
	// Most of the time of so many opens is the disk's, with the ballast.
	o.outside.free = func(string) (int64, error) { return Reserve + ballastSize - 1, nil }
	s, err := Open(dir, o)
	if err != nil {
		return refused
	}
	defer func() { must(t, s.Close()) }()
	got, err := content(s)
	if err != nil {
		return refused
	}
	if s.Damage() != nil {
		if err := wantFloor.lowered(s.Floor()); err != nil {
			t.Errorf("the floor went down: %v", err)
		}
		return reported
	}
	if got != want || s.Floor() != wantFloor {
		return silent
	}
	return harmless
}

// prepare returns two data folders with the same content: one whose database
// was closed in order (all in tables), one that was left as a crash would (all in
// the write-ahead log).
func prepare(t testing.TB, n int) (dirs map[string]string, want string, floor Floor) {
	base := kit.MemDir(t)
	dirs = map[string]string{"closed": filepath.Join(base, "closed"), "crashed": filepath.Join(base, "crashed")}
	s := mustOpen(t, dirs["closed"], Options{})
	fill(t, s, n)
	want, floor = mustContent(t, s), s.Floor()
	copyTree(t, dirs["closed"], dirs["crashed"])
	mustClose(t, s)
	return dirs, want, floor
}

// TestBitFlips flips bits all over the database's files: each is reported or
// harmless. With the planted bug (the database is believed) some are silent, which
// shows that the comparison with the floor is what catches them.
func TestBitFlips(t *testing.T) {
	dirs, want, floor := prepare(t, 60)
	counts := map[outcome]int{}
	planted := map[outcome]int{}
	try := kit.MemDir(t)
	n := 0
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "db", "*"))
		must(t, err)
		for _, file := range files {
			b, err := os.ReadFile(file)
			must(t, err)
			size := min(len(bytes.TrimRight(b, "\x00"))+16, len(b))
			step := max(size/density(60), 1)
			for at := n % step; at < size; at += step {
				n++
				for _, trust := range []bool{false, true} {
					if trust && n%3 != 0 {
						continue
					}
					target := filepath.Join(try, "data")
					copyTree(t, dir, target)
					flip(t, filepath.Join(target, "db", filepath.Base(file)), int64(at), 1<<(n%8))
					got := openDamaged(t, target, want, floor, Options{outside: outside{trustDatabase: trust}})
					if trust {
						planted[got]++
					} else {
						counts[got]++
						if got == silent || got == refused {
							t.Errorf("%s: bit %d of byte %d: %v", file, n%8, at, got)
						}
					}
					must(t, os.RemoveAll(target))
				}
			}
		}
	}
	t.Logf("%d flips: %v; with the planted bug: %v", n, counts, planted)
	if counts[reported] == 0 || planted[silent] == 0 {
		t.Errorf("the test proves nothing: %v, planted %v", counts, planted)
	}
}

// TestTruncation cuts the write-ahead log and each table at many places.
func TestTruncation(t *testing.T) {
	dirs, want, floor := prepare(t, 40)
	plantedSilent := false
	try := kit.MemDir(t)
	for kind, pattern := range map[string]string{"crashed": "*.mem", "closed": "*.sst"} {
		files, err := filepath.Glob(filepath.Join(dirs[kind], "db", pattern))
		must(t, err)
		if len(files) == 0 {
			t.Fatalf("no %s in the %s database", pattern, kind)
		}
		b, err := os.ReadFile(files[0])
		must(t, err)
		size := len(bytes.TrimRight(b, "\x00"))
		for at := size - 5; at > 0; at -= size/density(40) + 1 {
			for _, trust := range []bool{false, true} {
				target := filepath.Join(try, "data")
				copyTree(t, dirs[kind], target)
				must(t, os.Truncate(filepath.Join(target, "db", filepath.Base(files[0])), int64(at)))
				got := openDamaged(t, target, want, floor, Options{outside: outside{trustDatabase: trust}})
				if !trust && got != reported {
					t.Errorf("%s cut at %d: %v", pattern, at, got)
				}
				plantedSilent = plantedSilent || trust && got == silent
				must(t, os.RemoveAll(target))
			}
		}
	}
	if !plantedSilent {
		t.Error("the planted bug was not seen: the test proves nothing")
	}
}

func TestMissingFilesAreFound(t *testing.T) {
	dirs, want, floor := prepare(t, 20)
	try := kit.MemDir(t)
	for kind, pattern := range map[string]string{"crashed": "*.mem", "closed": "*.sst", "closed ": "MANIFEST", "crashed ": ""} {
		target := filepath.Join(try, "data")
		copyTree(t, dirs[strings.TrimSpace(kind)], target)
		files, err := filepath.Glob(filepath.Join(target, "db", pattern))
		must(t, err)
		for _, f := range files {
			must(t, os.RemoveAll(f))
		}
		if got := openDamaged(t, target, want, floor, Options{}); got != reported {
			t.Errorf("%s lost: %v", pattern, got)
		}
		must(t, os.RemoveAll(target))
	}
}

func TestDamageIsReportedUntilHealed(t *testing.T) {
	dirs, _, floor := prepare(t, 10)
	dir := dirs["crashed"]
	mems, err := filepath.Glob(filepath.Join(dir, "db", "*.mem"))
	must(t, err)
	flip(t, mems[0], 2500, 1)

	s := mustOpen(t, dir, Options{})
	d := s.Damage()
	if d == nil || !strings.Contains(d.What, "was shortened") || d.Where == "" {
		t.Fatalf("damage %+v", d)
	}
	if fi, err := os.Stat(filepath.Join(d.Where, "MANIFEST")); err != nil || fi.IsDir() {
		t.Fatalf("nothing in quarantine: %v", err)
	}
	if s.Floor() != floor || mustContent(t, s) != "" {
		t.Fatalf("after damage: %+v\n%s", s.Floor(), mustContent(t, s))
	}
	// The chain goes on where the floor says that it ended.
	if e := mustAppend(t, s, "k", "after"); e.Seq != floor.JournalSeq+1 || e.Prev != floor.JournalHash {
		t.Fatalf("entry %+v after floor %+v", e, floor)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, Options{})
	if got := s.Damage(); got == nil || *got != *d {
		t.Fatalf("reopened: %+v, want %+v", got, d)
	}
	must(t, s.Healed())
	if s.Damage() != nil {
		t.Fatal("damage after healing")
	}
	mustClose(t, s)
	s = mustOpen(t, dir, Options{})
	if s.Damage() != nil {
		t.Fatal("damage after healing and reopening")
	}
	if got := mustContent(t, s); got != fmt.Sprintf("entry %d k \"after\"\n", floor.JournalSeq+1) {
		t.Fatalf("content %s", got)
	}
}

func TestQuarantineKeepsTwo(t *testing.T) {
	dir := kit.MemDir(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	o := Options{outside: outside{now: func() time.Time { return now }}}
	for i := range 5 {
		s := mustOpen(t, dir, o)
		mustAppend(t, s, "k", fmt.Sprint(i))
		mustClose(t, s)
		must(t, os.Remove(filepath.Join(dir, "db", "MANIFEST")))
		if i == 2 {
			now = now.Add(time.Hour)
		}
	}
	mustOpen(t, dir, o)
	kept, err := filepath.Glob(filepath.Join(dir, "quarantine", "*"))
	must(t, err)
	if len(kept) != 2 || filepath.Base(kept[0]) < "20260101T01" {
		t.Fatalf("kept %v", kept)
	}
}

func TestFloorFileDamaged(t *testing.T) {
	dirs, want, floor := prepare(t, 10)
	try := kit.MemDir(t)
	b, err := os.ReadFile(filepath.Join(dirs["closed"], "floor.json"))
	must(t, err)
	for at := 0; at < len(b); at += 60 / density(60) {
		target := filepath.Join(try, "data")
		copyTree(t, dirs["closed"], target)
		flip(t, filepath.Join(target, "floor.json"), int64(at), 1<<(at%8))
		if got := openDamaged(t, target, want, floor, Options{}); got != reported && got != harmless { // of a letter that JSON takes in either case
			t.Errorf("byte %d of the floor: %v", at, got)
		}
		if at%20 == 0 { // and now the database has gone, too
			must(t, os.RemoveAll(filepath.Join(target, "db")))
			flip(t, filepath.Join(target, "floor.json"), int64(at), 1)
			_, err := Open(target, Options{})
			wantErr(t, err, "restore floor.json from a backup")
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(target, "db")); err == nil {
				t.Error("a refused open has made a database")
			}
		}
		must(t, os.RemoveAll(target))
	}
}

func TestNewerFormatIsRefusedNotDamaged(t *testing.T) {
	dir := kit.MemDir(t)
	mustClose(t, mustOpen(t, dir, Options{}))
	path := filepath.Join(dir, "floor.json")
	old, err := os.ReadFile(path)
	must(t, err)
	body := []byte(`{"commits":1,"later":true}`)
	text := fmt.Sprintf(`{"format":%d,"mark":%s,"sum":%q}`, FloorFormat+1, body, markSum(FloorFormat+1, body))
	must(t, os.WriteFile(path, []byte(text), 0o600))
	_, err = Open(dir, Options{})
	wantErr(t, err, "written by a newer moult")
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Fatalf("changed to %s (%v)", got, err)
	}
	// A crash may have come between the database's copy and the file.
	must(t, os.WriteFile(path, old, 0o600))
	db, err := openBadger(filepath.Join(dir, "db"), slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, db.Update(func(txn *badger.Txn) error { return txn.Set(markKey, []byte(text)) }))
	must(t, db.Close())
	_, err = Open(dir, Options{})
	wantErr(t, err, "written by a newer moult")
	if _, err := os.Stat(filepath.Join(dir, "quarantine")); err == nil {
		t.Fatal("the database of a newer moult was put away")
	}
}

func TestOlderFloorFileIsLifted(t *testing.T) {
	dir := kit.MemDir(t)
	s := mustOpen(t, dir, Options{})
	old, err := os.ReadFile(s.floorPath())
	must(t, err)
	fill(t, s, 5)
	want, floor := mustContent(t, s), s.Floor()
	mustClose(t, s)
	must(t, os.WriteFile(s.floorPath(), old, 0o600))
	if got := openDamaged(t, dir, want, floor, Options{}); got != harmless {
		t.Fatal(got)
	}
	if m, err := readMark(s.floorPath()); err != nil || m.Floor != floor {
		t.Fatalf("floor file %+v %v", m, err)
	}
}

// TestRecoverFrom has every meeting of the two marks.
func TestRecoverFrom(t *testing.T) {
	at := func(commits uint64, release int) mark {
		m := mark{Commits: commits}
		m.Floor.Root = int64(release)
		return m
	}
	bad := errors.New("bad")
	for _, c := range []struct {
		name                   string
		f                      found
		refuse, fresh, damaged bool
		mark                   mark
	}{
		{"new folder", found{}, false, true, false, mark{}},
		{"crash before the first floor file", found{DB: dbGood, DBMark: at(1, 0)}, false, false, false, at(1, 0)},
		{"equal", found{File: fileGood, FileMark: at(4, 2), DB: dbGood, DBMark: at(4, 2)}, false, false, false, at(4, 2)},
		{"one ahead", found{File: fileGood, FileMark: at(4, 2), DB: dbGood, DBMark: at(5, 3)}, false, false, false, at(5, 3)},
		{"far ahead", found{File: fileGood, FileMark: at(4, 2), DB: dbGood, DBMark: at(9, 3)}, false, false, false, at(9, 3)},
		{"behind", found{File: fileGood, FileMark: at(4, 2), DB: dbGood, DBMark: at(3, 2)}, false, true, true, at(4, 2)},
		{"another", found{File: fileGood, FileMark: at(4, 2), DB: dbGood, DBMark: at(4, 3)}, false, true, true, at(4, 3)},
		{"ahead with a lower floor", found{File: fileGood, FileMark: at(4, 2), DB: dbGood, DBMark: at(5, 1)}, false, true, true, at(5, 2)},
		{"database missing", found{File: fileGood, FileMark: at(4, 2)}, false, true, true, at(4, 2)},
		{"database damaged", found{File: fileGood, FileMark: at(4, 2), DB: dbDamaged, DBErr: bad}, false, true, true, at(4, 2)},
		{"floor missing", found{DB: dbGood, DBMark: at(5, 3)}, false, false, true, at(5, 3)},
		{"floor damaged", found{File: fileDamaged, FileErr: bad, DB: dbGood, DBMark: at(5, 3)}, false, false, true, at(5, 3)},
		{"floor damaged, database missing", found{File: fileDamaged, FileErr: bad}, true, false, false, mark{}},
		{"both damaged", found{File: fileDamaged, FileErr: bad, DB: dbDamaged, DBErr: bad}, true, false, false, mark{}},
		{"floor missing, database damaged", found{DB: dbDamaged, DBErr: bad}, true, false, false, mark{}},
	} {
		p := recoverFrom(c.f, false)
		if (p.Refuse != nil) != c.refuse || p.Fresh != c.fresh || (p.Damage != "") != c.damaged || p.Mark != c.mark {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}

// TestTableBegun leaves what a crash leaves of a table that Badger was writing: it is
// no damage, for no table that counts is missing. Nor is it while the store is open.
func TestTableBegun(t *testing.T) {
	dirs, want, floor := prepare(t, 30)
	for name, dir := range dirs {
		for _, size := range []int{0, 1, 4096} {
			begun := filepath.Join(dir, "db", "000999.sst")
			must(t, os.WriteFile(begun, make([]byte, size), 0o600))
			if got := openDamaged(t, dir, want, floor, Options{}); got != harmless {
				t.Errorf("%s, %d bytes: %v", name, size, got)
			}
		}
		s := mustOpen(t, dir, Options{})
		must(t, os.WriteFile(filepath.Join(dir, "db", "000998.sst"), nil, 0o600))
		must(t, s.Check())
		mustClose(t, s)
		// One that counts is missed.
		named, err := namedTables(filepath.Join(dir, "db"))
		must(t, err)
		for id := range named {
			must(t, os.Remove(table.NewFilename(id, filepath.Join(dir, "db"))))
			break
		}
		if got := openDamaged(t, dir, want, floor, Options{}); got != reported {
			t.Errorf("%s without a table: %v", name, got)
		}
	}
}

// TestTableGoneBadUnderAnOpenStore shows what Check is for.
func TestTableGoneBadUnderAnOpenStore(t *testing.T) {
	dirs, _, _ := prepare(t, 30)
	dir := dirs["closed"]
	s := mustOpen(t, dir, Options{})
	must(t, s.Check())
	tables, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	must(t, err)
	flip(t, tables[0], 200, 1)
	if err := s.Check(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v", err)
	}
	_, err = s.Append("k", nil)
	wantErr(t, err, "open the store again")
	mustClose(t, s)
	if s = mustOpen(t, dir, Options{}); s.Damage() == nil {
		t.Fatal("no damage after reopening")
	}
}

func FuzzDecodeMark(f *testing.F) {
	b, err := encodeMark(mark{Commits: 3, Floor: Floor{Release: 2}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":1,"mark":{},"sum":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMark(b)
		if err != nil {
			return
		}
		again, err := encodeMark(m)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := decodeMark(again); err != nil || n != m {
			t.Fatalf("%+v became %+v: %v", m, n, err)
		}
	})
}

// floorFormats has the form that each field of the floor came with. A field that is not here
// is one that agents in use do not know: it takes a new form (see FloorFormat).
var floorFormats = map[string]int{
	"Release": 1, "Root": 1, "Timestamp": 1, "Snapshot": 1, "Targets": 1, "Operator": 1,
	"JournalSeq": 1, "JournalHash": 1, "RecordSeq": 1, "EndedRelease": 1, "EndedCount": 1,
	"Obeys": 1, "Settled": 1, "Cluster": 1,
	"Expired": 2,
	"Members": 3, "Turned.Release": 3, "Turned.Turn": 3, "Turned.Done": 3, "Turned.Ended": 3, "Final": 3,
}

// What older programs do not know they refuse by the number of the format.
func TestFloorFormats(t *testing.T) {
	var check func(m *mark, v reflect.Value, path string)
	check = func(m *mark, v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				check(m, v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."))
			}
			return
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Uint64:
			v.SetUint(5)
		case reflect.Array:
			v.Index(0).SetUint(5)
		default:
			v.SetInt(5)
		}
		defer v.SetZero()
		b, err := encodeMark(*m)
		must(t, err)
		var f markFile
		must(t, json.Unmarshal(b, &f))
		if f.Format != floorFormats[path] {
			t.Errorf("%s is written in format %d, want %d", path, f.Format, floorFormats[path])
		}
		if got, err := decodeMark(b); err != nil || got != *m {
			t.Errorf("%s: read %+v, %v", path, got, err)
		}
		// No older form has a field of a newer one, set or not.
		for later, format := range floorFormats {
			name, _, _ := strings.Cut(later, ".")
			if format > f.Format && bytes.Contains(b, []byte(`"`+strings.ToLower(name)+`":`)) {
				t.Errorf("format %d has %s: %s", f.Format, name, b)
			}
		}
	}
	var m mark
	check(&m, reflect.ValueOf(&m.Floor).Elem(), "")
}

// TestFloorsOfBefore: some agents wrote fields of format 3 under 1 and 2, and their floors hold.
func TestFloorsOfBefore(t *testing.T) {
	for format, body := range map[int]string{
		1: `{"commits":7,"start":{"seq":0,"hash":""},"floor":{"release":4,"members":3,"turned":{"release":4,"turn":1},"final":3}}`,
		2: `{"commits":7,"start":{"seq":0,"hash":""},"floor":{"release":4,"expired":2,"members":3}}`,
	} {
		text := fmt.Sprintf(`{"format":%d,"mark":%s,"sum":%q}`, format, body, markSum(format, []byte(body)))
		m, err := decodeMark([]byte(text))
		if err != nil || m.Commits != 7 || m.Floor.Release != 4 || m.Floor.Members != 3 || m.Floor.Turned.Turn != 2-format || m.Floor.Expired != int64(2*(format-1)) {
			t.Errorf("format %d: %+v, %v", format, m, err)
		}
	}
}

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"

	"moult/store/durable"
)

// Open opens the data folder dir, which it makes if only its last element is
// missing. It reads and checks everything that the database holds, puts a
// damaged database into quarantine and goes on with a fresh one (see Damage).
// A disk that is mounted read-only is read, and takes no writes.
// It returns an error, and has changed nothing, where another agent holds the
// folder, where this user may not write to it, where the disk is so full that not even the
// ballast makes room enough, and where the floor is lost.
func Open(dir string, o Options) (*Store, error) {
	s := newStore(dir, o)
	if err := prepareDir(dir); err != nil {
		return nil, err
	}
	l, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s.lock = l
	s.sweep()
	if err := s.open(); err != nil {
		err = fmt.Errorf("data folder %s: %w", dir, err)
		if s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
		return nil, errors.Join(err, s.dropCopy(), l.Unlock())
	}
	return s, nil
}

func newStore(dir string, o Options) *Store {
	s := &Store{dir: dir, log: o.Log, keep: uint64(max(o.Keep, 0)), out: o.outside}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.keep == 0 {
		s.keep = DefaultKeep
	}
	if s.out.now == nil {
		s.out.now = time.Now
	}
	if s.out.free == nil {
		s.out.free = durable.FreeSpace
	}
	if s.out.readOnly == nil {
		s.out.readOnly = durable.ReadOnly
	}
	if s.out.writeMark == nil {
		s.out.writeMark = writeMark
	}
	if s.out.opening == nil {
		s.out.opening = func() {}
	}
	return s
}

func (s *Store) open() error {
	if s.out.readOnly(s.dir) {
		return s.openCopy()
	}
	if err := s.makeRoom(); err != nil {
		return err
	}
	f, err := s.look()
	if err != nil {
		return err
	}
	p := recoverFrom(f, s.out.trustDatabase)
	if p.Refuse != nil {
		return p.Refuse
	}
	if p.Warn != "" {
		s.log.Warn("store recovered", "dir", s.dir, "what", p.Warn)
	}
	if p.Fresh {
		if err := s.fresh(p, f.DB != dbMissing); err != nil {
			return err
		}
	}
	s.mark = p.Mark
	if p.Fresh {
		if err := s.begin(p.Damage); err != nil {
			return err
		}
	} else if p.Damage != "" {
		s.log.Error("store damaged", "dir", s.dir, "what", p.Damage)
		if err := s.note(s.mark, p.Damage); err != nil {
			return err
		}
	} else if f.File != fileGood || f.FileMark != p.Mark {
		if err := s.out.writeMark(s.floorPath(), p.Mark); err != nil {
			return err
		}
	}
	if err := s.takeBallast(); err != nil {
		s.log.Warn("no room is kept for opening the store on a full disk", "err", err)
	}
	return s.db.View(func(txn *badger.Txn) (err error) {
		s.damage, err = getDamage(txn)
		return err
	})
}

// look finds out what is there. It leaves the database open in s.db when it is
// good.
func (s *Store) look() (found, error) {
	n, err := s.attempts()
	if err != nil {
		return found{}, err
	}
	if n >= maxCrashedOpens {
		f, err := s.lookAtFloor()
		f.DB, f.DBErr = dbDamaged, fmt.Errorf("opening it has ended the process %d times", n)
		return f, err
	}
	if err := s.setAttempts(n + 1); err != nil {
		return found{}, err
	}
	f, err := s.examine()
	return f, errors.Join(err, s.setAttempts(0))
}

// examine looks at the floor file and the database.
func (s *Store) examine() (found, error) {
	f, err := s.lookAtFloor()
	if err == nil {
		err = s.openDB(&f)
	}
	return f, err
}

func (s *Store) lookAtFloor() (f found, err error) {
	f.File = fileGood
	f.FileMark, err = readMark(s.floorPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.File = fileMissing
	case isDamage(err):
		f.File, f.FileErr = fileDamaged, err
	case err != nil:
		return f, fmt.Errorf("read the floor %s: %w", s.floorPath(), err)
	}
	return f, nil
}

// openDB opens and checks the database, and tells in f what it found. It
// returns an error only where the outside world stands in the way, and the
// database may be good.
func (s *Store) openDB(f *found) error {
	if _, err := os.Stat(filepath.Join(s.dbPath(), badger.ManifestFilename)); errors.Is(err, fs.ErrNotExist) {
		if entries, err := os.ReadDir(s.dbPath()); err == nil && len(entries) > 0 {
			f.DB, f.DBErr = dbDamaged, errors.New("its manifest is missing")
		}
		return nil
	} else if err != nil {
		return err
	}
	s.out.opening()
	damaged := func(err error) error {
		if environmental(err) || errors.Is(err, errNewerFormat) {
			return fmt.Errorf("open the database: %w", err)
		}
		f.DB, f.DBErr = dbDamaged, err
		return nil
	}
	if err := checkTables(s.dbPath()); err != nil {
		return damaged(err)
	}
	db, err := openBadger(s.dbPath(), s.log)
	if err != nil {
		return damaged(err)
	}
	ok := false
	err = checkDB(db, &f.DBMark, &ok)
	if err == nil && ok {
		f.DB, s.db = dbGood, db
		return durable.SyncDir(s.dbPath()) // Badger does not sync the name of a new log
	}
	if cerr := db.Close(); cerr != nil {
		s.log.Warn("close a damaged database", "dir", s.dbPath(), "err", cerr)
	}
	if err != nil {
		return damaged(err)
	}
	f.DB = dbMissing // empty: made, and never written to
	return nil
}

// checkDB verifies the mark and the whole journal of an open database. ok is
// false where it holds nothing at all.
func checkDB(db *badger.DB, m *mark, ok *bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("badger panicked: %.200v", r)
		}
	}()
	return db.View(func(txn *badger.Txn) (err error) {
		if *m, *ok, err = getMark(txn); err != nil {
			return err
		}
		if !*ok {
			it := txn.NewIterator(badger.IteratorOptions{})
			defer it.Close()
			if it.Rewind(); it.Valid() {
				return errors.New("it has lost its copy of the floor")
			}
			return nil
		}
		return walkJournal(txn, *m, 0, func(Entry) error { return nil })
	})
}

// environmental reports whether an error says nothing about the database.
// Badger flattens the errors of the system into text, so text is all there is
// to look at.
func environmental(err error) bool {
	for _, e := range []syscall.Errno{syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOSPC,
		syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return false
}

// fresh puts the present database away and opens an empty one.
func (s *Store) fresh(p plan, keep bool) error {
	if s.db != nil {
		if err := s.db.Close(); err != nil {
			s.log.Warn("close a damaged database", "dir", s.dbPath(), "err", err)
		}
		s.db = nil
	}
	if keep {
		where, err := s.quarantine()
		if err != nil {
			return fmt.Errorf("put the damaged database into quarantine: %w", err)
		}
		s.damage = &Damage{Where: where}
	}
	if err := s.setAttempts(0); err != nil {
		return err
	}
	db, err := openBadger(s.dbPath(), s.log)
	if err != nil {
		return fmt.Errorf("make a fresh database: %w", err)
	}
	s.db = db
	if err := durable.SyncDir(s.dbPath()); err != nil {
		return err
	}
	if p.Damage != "" {
		s.log.Error("store damaged", "dir", s.dir, "what", p.Damage, "quarantine", s.where())
	}
	return durable.SyncDir(s.dir)
}

func (s *Store) where() string {
	if s.damage == nil {
		return ""
	}
	return s.damage.Where
}

// begin makes the first write to a fresh database: the chain goes on where the
// floor says that it ended, and the damage is noted until it is healed.
func (s *Store) begin(what string) error {
	next := s.mark
	next.Start = anchor{next.Floor.JournalSeq, next.Floor.JournalHash}
	return s.note(next, what)
}

// note writes that there was damage, until it is healed, where there was any.
func (s *Store) note(next mark, what string) error {
	next, err := commit(s.db, next, s.keep, func(tx *Tx) error {
		tx.items++ // also where there is nothing else to write
		if what == "" {
			return nil
		}
		return tx.noteDamage(Damage{What: what, Where: s.where(), Found: s.out.now().UTC()})
	})
	if err != nil {
		return err
	}
	s.mark = next
	return s.out.writeMark(s.floorPath(), next)
}

// quarantine moves the database away and returns where it is kept; of those
// kept before, all but the newest go.
func (s *Store) quarantine() (string, error) {
	dir := filepath.Join(s.dir, "quarantine")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	kept, err := os.ReadDir(dir) // sorted by name, and so by time
	if err != nil {
		return "", err
	}
	for len(kept) >= maxQuarantined {
		if err := os.RemoveAll(filepath.Join(dir, kept[0].Name())); err != nil {
			return "", err
		}
		kept = kept[1:]
	}
	base := s.out.now().UTC().Format("20060102T150405.000Z")
	name := base
	for i := 2; slices.ContainsFunc(kept, func(e fs.DirEntry) bool { return e.Name() == name }); i++ {
		name = base + "-" + strconv.Itoa(i)
	}
	where := filepath.Join(dir, name)
	if err := durable.Rename(s.dbPath(), where); err != nil {
		return "", err
	}
	return where, durable.SyncDir(s.dir)
}

// attempts returns how often in a row opening the database has not come to an
// end. Some damage makes Badger end the process (its y.Check is log.Fatalf),
// which would otherwise repeat for ever.
func (s *Store) attempts() (int, error) {
	b, err := durable.ReadFile(s.attemptsPath(), maxLockFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 {
		return 0, nil // torn: count anew
	}
	return n, nil
}

func (s *Store) setAttempts(n int) error {
	if n == 0 {
		if err := os.Remove(s.attemptsPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return durable.WriteFile(s.attemptsPath(), []byte(strconv.Itoa(n)+"\n"), 0o600)
}

func (s *Store) attemptsPath() string { return filepath.Join(s.dir, "opening") }

package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"moult/store/bundle"
	"moult/store/durable"
)

// A copy of a store is its floor file and its database, in a folder of its own. It is what
// another build of the agent is tried on, and what is put back after one that was no good.

// CopyTo copies the open store to the folder to, which is made. Writes wait meanwhile. It
// reads through Badger, whose own tidying may change and remove files at any time.
func (s *Store) CopyTo(to string) error {
	done, err := s.enter()
	if err != nil {
		return err
	}
	defer done()
	s.write.Lock()
	defer s.write.Unlock()
	err = makeCopy(s.floorPath(), s.dbPath(), to)
	if err == nil {
		err = s.loadInto(filepath.Join(to, "db"))
	}
	if err != nil {
		return fmt.Errorf("copy the store in %s: %w", s.dir, err)
	}
	return nil
}

// loadInto makes a database of what the open one holds.
func (s *Store) loadInto(dir string) error {
	db, err := openBadger(dir, s.log)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		_, err := s.db.Backup(w, 0)
		read <- errors.Join(err, w.CloseWithError(err))
	}()
	err = db.Load(r, 1)
	return errors.Join(err, r.Close(), <-read, db.Close())
}

// Copy copies the store of a data folder that nobody has open to the folder to. The copy is
// durable when it returns nil.
func Copy(dir, to string) error {
	return WhileClosed(dir, func() error { return CopyClosed(dir, to) })
}

// CopyClosed is Copy for who is within WhileClosed.
func CopyClosed(dir, to string) error {
	err := copyFiles(filepath.Join(dir, "floor.json"), filepath.Join(dir, "db"), to)
	if err == nil {
		err = errors.Join(durable.SyncTree(to), durable.SyncDir(filepath.Dir(to)))
	}
	if err != nil {
		return fmt.Errorf("copy the store in %s: %w", dir, err)
	}
	return nil
}

// copyFiles copies what there is: a file that is missing is so in the copy.
func copyFiles(floor, db, to string) error {
	if err := makeCopy(floor, db, to); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(to, "db"), os.DirFS(db)); err != nil && (!errors.Is(err, fs.ErrNotExist) || exists(db)) {
		return err
	}
	return nil
}

// makeCopy makes the folder of a copy where there is room for it, with the floor, if there is one.
func makeCopy(floor, db, to string) error {
	size, err := sizeOf(db)
	if err == nil {
		err = checkSpace(durable.FreeSpace, filepath.Dir(to), size, Reserve)
	}
	if err == nil {
		err = os.Mkdir(to, 0o700)
	}
	if err != nil {
		return err
	}
	data, err := os.ReadFile(floor)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, "floor.json"), data, 0o600)
}

// WhileClosed runs f while nobody has the store of a data folder open.
func WhileClosed(dir string, f func() error) error {
	l, err := lockDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f(), l.Unlock())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Standing is how far a store has come.
type Standing struct {
	Commits uint64
	Floor   Floor
	first   anchor
	hashes  map[uint64]bundle.Digest
}

// Standing reads the whole journal, which verifies it, and returns how far the store is.
func (s *Store) Standing() (Standing, error) {
	s.mu.Lock()
	st := Standing{Commits: s.mark.Commits, Floor: s.mark.Floor, first: s.mark.Start, hashes: map[uint64]bundle.Digest{}}
	s.mu.Unlock()
	err := s.Journal(0, func(e Entry) error {
		st.hashes[e.Seq] = e.Hash
		return nil
	})
	return st, err
}

// GoesOnFrom returns why a store is not one that went on from before: its journal must have
// what that ended with, and nothing of its floor may be lower.
func (st Standing) GoesOnFrom(before Standing) error {
	end := anchor{before.Floor.JournalSeq, before.Floor.JournalHash}
	hash, kept := st.hashes[end.Seq]
	switch {
	case st.Commits < before.Commits:
		return fmt.Errorf("%d writes were made, and %d before", st.Commits, before.Commits)
	case end == st.first || end.Seq == 0:
	case !kept:
		return fmt.Errorf("the journal has no entry %d, with which it ended: %w", end.Seq, ErrDamaged)
	case hash != end.Hash:
		return fmt.Errorf("entry %d of the journal is %s, and was %s: %w", end.Seq, hash.Short(), end.Hash.Short(), ErrDamaged)
	}
	if err := before.Floor.lowered(st.Floor); err != nil {
		return fmt.Errorf("the floor: %w", err)
	}
	return nil
}

// PutBack puts the copy of a store, as Copy has made it, in the place of that of a data folder
// that nobody has open. What was there goes into quarantine. Nothing that can be read of
// its floor is lost, but for where its journal ended; and as nobody can say
// what else it held, Damage tells so, as of a store whose last writes are lost. It may be called
// again where it was interrupted; the copy stays as it is.
func PutBack(dir, from, why string, o Options) (err error) {
	s := newStore(dir, o)
	l, err := lockDir(dir)
	if err != nil {
		return err
	}
	s.lock = l
	defer func() { err = errors.Join(err, l.Unlock()) }()
	made := filepath.Join(dir, putBackName)
	if err := errors.Join(os.RemoveAll(made), copyFiles(filepath.Join(from, "floor.json"), filepath.Join(from, "db"), made)); err != nil {
		return fmt.Errorf("put the store of %s back: %w", dir, err)
	}
	next, err := s.rejoin(made, why)
	if err != nil {
		return fmt.Errorf("put the store of %s back: %w", dir, errors.Join(err, os.RemoveAll(made)))
	}
	if err := durable.SyncTree(made); err != nil {
		return err
	}
	if exists(s.dbPath()) {
		if _, err := s.quarantine(); err != nil {
			return fmt.Errorf("put the store of %s back: %w", dir, err)
		}
	}
	if err := durable.Rename(filepath.Join(made, "db"), s.dbPath()); err != nil {
		return err
	}
	if err := s.out.writeMark(s.floorPath(), next); err != nil {
		return err
	}
	return errors.Join(s.setAttempts(0), os.RemoveAll(made))
}

const putBackName = "putback"

// rejoin opens the copy that is to be put back, and makes it take over what can be read of the
// floor of what it replaces.
func (s *Store) rejoin(made, why string) (next mark, err error) {
	c := newStore(made, Options{Log: s.log, outside: s.out})
	f, err := c.examine()
	if err == nil && f.DB != dbGood {
		err = fmt.Errorf("the copy: %w", errors.Join(f.DBErr, ErrDamaged))
	}
	if err != nil {
		return next, err
	}
	defer func() { err = errors.Join(err, c.db.Close()) }()
	next = f.DBMark
	end := anchor{next.Floor.JournalSeq, next.Floor.JournalHash}
	for _, m := range s.readable() {
		if s.out.forgetFloor {
			continue
		}
		next.Floor = next.Floor.join(m.Floor)
		next.Commits = max(next.Commits, m.Commits)
	}
	next.Floor.JournalSeq, next.Floor.JournalHash = end.Seq, end.Hash
	return commit(c.db, next, s.keep, func(tx *Tx) error {
		return tx.noteDamage(Damage{What: why, Found: s.out.now().UTC()})
	})
}

// readable are the marks that can be read of a data folder, whatever its database is.
func (s *Store) readable() (marks []mark) {
	if m, err := readMark(s.floorPath()); err == nil {
		marks = append(marks, m)
	}
	if n, err := s.attempts(); err != nil || n > 0 {
		return marks // looking at it has ended the process before
	}
	f := found{}
	err := s.setAttempts(1)
	if err == nil {
		err = errors.Join(s.openDB(&f), s.setAttempts(0))
	}
	if err == nil && f.DB == dbGood {
		marks = append(marks, f.DBMark)
		if err := s.db.Close(); err != nil {
			s.log.Warn("close a database that is put away", "dir", s.dbPath(), "err", err)
		}
		s.db = nil
	}
	return marks
}

// Fatal reports whether opening a copy has ended the process that did.
func Fatal(dir string) bool {
	n, err := newStore(dir, Options{}).attempts()
	return err == nil && n > 0
}

// OpenCopy opens a copy, to be read: it keeps no ballast. Where it is damaged, that is the
// error, and nothing has changed. Some damage ends the process: see Fatal.
func OpenCopy(dir string, o Options) (*Store, error) {
	s := newStore(dir, o)
	l, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s.lock = l
	f, err := s.look()
	if err == nil {
		switch p := recoverFrom(f, false); {
		case p.Refuse != nil:
			err = p.Refuse
		case p.Fresh && f.DB == dbMissing && f.File == fileMissing:
			err = fmt.Errorf("%s has no store: %w", dir, fs.ErrNotExist)
		case p.Damage != "":
			err = fmt.Errorf("%s: %w", p.Damage, ErrDamaged)
		default:
			s.mark = p.Mark
		}
	}
	if err == nil && s.db == nil {
		err = fmt.Errorf("%s has no database: %w", dir, ErrDamaged)
	}
	if err == nil {
		err = s.db.View(func(txn *badger.Txn) (err error) { s.damage, err = getDamage(txn); return err })
	}
	if err != nil {
		if s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
		return nil, errors.Join(fmt.Errorf("open the copy %s: %w", dir, err), l.Unlock())
	}
	return s, nil
}

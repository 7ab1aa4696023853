package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/gofrs/flock"

	"moult/store/standin"
)

// Errors that callers tell apart.
var (
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("store is closed")
	// ErrNoSpace means that nothing was written because the disk is nearly full, or
	// read-only.
	ErrNoSpace = errors.New("not enough free disk space")
	// ErrDamaged means that the disk does not hold what was written to it.
	ErrDamaged = errors.New("store is damaged")
)

// Options of Open. The zero value is good.
type Options struct {
	// Log receives what Badger says and what recovery did; nil is silent.
	Log *slog.Logger
	// Keep is how many journal entries are kept at least; 0 is DefaultKeep.
	Keep int

	outside outside
}

// outside is what tests replace.
type outside struct {
	now  func() time.Time
	free func(dir string) (int64, error)
	// readOnly tells whether the disk takes no writes.
	readOnly func(dir string) bool
	// writeMark replaces floor.json.
	writeMark func(path string, m mark) error
	// opening is called in the middle of opening the database.
	opening func()
	// trustDatabase plants a bug: the database is believed, whatever the
	// floor file says.
	trustDatabase bool
	// forgetFloor plants a bug: what is put back is all that counts.
	forgetFloor bool
}

// Store is an open data folder. Its methods may be called concurrently;
// writes take turns.
type Store struct {
	dir  string
	log  *slog.Logger
	keep uint64
	out  outside
	lock *flock.Flock
	db   *badger.DB
	// copy is where the database's copy is, nil where it is opened where it is.
	copy *standin.Folder

	// write is held by the one Update that runs.
	write sync.Mutex

	// mu guards the following.
	mu     sync.Mutex
	mark   mark
	damage *Damage
	failed error // a write whose outcome is unknown: no more writes
	closed bool
	users  sync.WaitGroup // Add only under mu and while !closed

	closeOnce sync.Once
	closeErr  error
}

// Close waits for the calls that are running, then closes the database and
// gives the data folder free. It may be called twice.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.users.Wait()
		s.closeErr = s.closeDB()
		s.closeErr = errors.Join(s.closeErr, s.dropCopy(), s.lock.Unlock())
	})
	return s.closeErr
}

// Bytes is how long the database's files are, as Badger counts them now and then.
func (s *Store) Bytes() int64 {
	done, err := s.enter()
	if err != nil {
		return 0
	}
	defer done()
	tables, values := s.db.Size()
	return tables + values
}

// closeDB closes the database. On a disk that has become read-only it is left as a crash
// would leave it, whose log has everything: Badger would try to write its last table for
// ever.
func (s *Store) closeDB() error {
	if s.copy == nil && s.out.readOnly(s.dir) {
		s.log.Warn("the disk is read-only, so the database is left as it is", "dir", s.dir)
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the database in %s: %w", s.dir, err)
	}
	return nil
}

// enter keeps the database open until done is called: Badger's memory maps
// must not go away under a reader.
func (s *Store) enter() (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	s.users.Add(1)
	return s.users.Done, nil
}

// Floor returns the floor as it is durable now.
func (s *Store) Floor() Floor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mark.Floor
}

// Raise lets fn change the floor, and makes it durable. It refuses to lower
// anything, to change the cluster and to move the journal's end, and then
// changes nothing.
func (s *Store) Raise(fn func(*Floor)) error {
	return s.Update(func(tx *Tx) error { return tx.Raise(fn) })
}

// Update runs fn and makes what it wrote durable, wholly or, when fn returns an
// error, not at all. One Update runs at a time; fn must not write by the
// Store's own methods. After an error other than fn's own and ErrNoSpace the
// outcome is unknown until the store is opened again, and every further write
// is refused.
func (s *Store) Update(fn func(*Tx) error) error {
	done, err := s.enter()
	if err != nil {
		return err
	}
	defer done()
	s.write.Lock()
	defer s.write.Unlock()

	s.mu.Lock()
	now, failed := s.mark, s.failed
	s.mu.Unlock()
	if failed != nil {
		return fmt.Errorf("an earlier write failed, open the store again: %w", failed)
	}
	next, err := commit(s.db, now, s.keep, func(tx *Tx) error {
		if err := fn(tx); err != nil || tx.items == 0 {
			return err
		}
		return s.CheckSpace(0)
	})
	if err == nil && next != now {
		// Only now: the file must never be ahead of the database.
		err = s.out.writeMark(s.floorPath(), next)
		if err != nil {
			err = failedCommit{fmt.Errorf("write the floor: %w", err)}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := errors.AsType[failedCommit](err); ok {
		s.failed = err
		s.mark = joinMarks(s.mark, next) // the safe direction
		return err
	}
	if err == nil {
		s.mark = next
	}
	return err
}

// failedCommit marks an error after which nobody knows what is on the disk.
type failedCommit struct{ error }

func (e failedCommit) Unwrap() error { return e.error }

// commit runs fn in one transaction of db, with the mark that follows now, and
// returns that mark; or now, where fn wrote nothing.
func commit(db *badger.DB, now mark, keep uint64, fn func(*Tx) error) (mark, error) {
	txn := db.NewTransaction(true)
	defer txn.Discard()
	tx := &Tx{txn: txn, next: now, keep: keep}
	if err := fn(tx); err != nil {
		return now, err
	}
	if tx.items == 0 {
		return now, nil
	}
	tx.next.Commits++
	b, err := encodeMark(tx.next)
	if err != nil {
		return now, err
	}
	if err := txn.Set(markKey, b); err != nil {
		return now, fmt.Errorf("write to the database: %w", err)
	}
	if err := txn.Commit(); err != nil {
		return tx.next, failedCommit{fmt.Errorf("write to the database: %w", err)}
	}
	return tx.next, nil
}

// CheckSpace returns an error that wraps ErrNoSpace unless need bytes can be
// written to the data folder's disk and Reserve still stays free.
func (s *Store) CheckSpace(need int64) error {
	if err := s.checkReadOnly(); err != nil {
		return err
	}
	return checkSpace(s.out.free, s.dir, need, Reserve)
}

func checkSpace(free func(string) (int64, error), dir string, need, reserve int64) error {
	have, err := free(dir)
	if err != nil {
		return err
	}
	if have-reserve < need {
		return fmt.Errorf("%s: %d bytes are free, %d and a reserve of %d are needed: %w; free some space",
			dir, have, need, reserve, ErrNoSpace)
	}
	return nil
}

// Check reads all that the database has on the disk and verifies it, as Open
// does: Badger takes a table that has gone bad under an open database for one
// without the key. Agents call it now and then. After an error that wraps
// ErrDamaged every write is refused; open the store again.
func (s *Store) Check() error {
	done, err := s.enter()
	if err != nil {
		return err
	}
	defer done()
	err = checkTables(s.dbPath())
	if err != nil && !environmental(err) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err == nil {
		err = s.Journal(0, func(Entry) error { return nil })
	}
	if errors.Is(err, ErrDamaged) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed == nil {
			s.failed = err
		}
	}
	return err
}

// Damage tells what Open found.
type Damage struct {
	// What was found, for people.
	What string `json:"what"`
	// Where the damaged database is kept; empty when there was none.
	Where string    `json:"where,omitempty"`
	Found time.Time `json:"found"`
}

// Damage returns what was found, by this Open or an earlier one, until Healed
// is called: documents and journal were lost then, and only the floor was kept; or,
// where Where is empty and there is a database, what was written last may be lost.
// It returns nil when all is well.
func (s *Store) Damage() *Damage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damage == nil {
		return nil
	}
	d := *s.damage
	return &d
}

// Healed forgets the damage: the agent has got back what it needs.
func (s *Store) Healed() error {
	if err := s.Update(func(tx *Tx) error { return tx.remove(damageKey) }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage = nil
	return nil
}

func (t *Tx) noteDamage(d Damage) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return t.set(damageKey, b)
}

func (s *Store) floorPath() string { return filepath.Join(s.dir, "floor.json") }

func (s *Store) dbPath() string {
	if s.copy != nil {
		return filepath.Join(s.copy.Path(), "db")
	}
	return filepath.Join(s.dir, "db")
}

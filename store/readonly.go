package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"moult/store/standin"
)

// A disk that fails is often mounted read-only by the system, under a node that runs.
// Badger cannot open a database there: it mends its log, and preallocates the next. So the
// store then works on a copy in the folder for temporary files, which takes no writes
// either: what is on the disk is read, and nothing is decided.

// readOnlyError is ErrNoSpace, too: whatever waits for room waits for this as well.
type readOnlyError struct {
	dir  string
	over bool // now the disk takes writes again
}

func (e readOnlyError) Error() string {
	if e.over {
		return e.dir + ": the disk was read-only when this agent started: start it again, now that it is not"
	}
	return e.dir + ": the disk is mounted read-only: find out why (the kernel's log tells, if it was the system), mount it for writing, and start the agent again"
}

func (readOnlyError) Is(target error) bool { return target == ErrNoSpace }

// checkReadOnly returns an error where nothing can be written, or could not be when the
// store was opened.
func (s *Store) checkReadOnly() error {
	now := s.out.readOnly(s.dir)
	if now || s.copy != nil {
		return readOnlyError{dir: s.dir, over: !now}
	}
	return nil
}

// openCopy opens what is on a disk that takes no writes.
func (s *Store) openCopy() error {
	if err := s.copyDB(); err != nil {
		return errors.Join(readOnlyError{dir: s.dir}, fmt.Errorf("and its database cannot be copied to where it could be opened (TMPDIR names a folder): %w", err))
	}
	s.log.Error("the disk is read-only: the store is opened as a copy, and takes no writes", "dir", s.dir, "copy", s.copy.Path())
	f, err := s.examine()
	if err != nil {
		return err
	}
	p := recoverFrom(f, s.out.trustDatabase)
	if p.Refuse != nil {
		return p.Refuse
	}
	s.mark = p.Mark
	if p.Damage != "" {
		s.damage = &Damage{What: p.Damage, Found: s.out.now().UTC()}
	}
	if !p.Fresh {
		return nil
	}
	if s.db != nil {
		err = s.db.Close()
	}
	if err = errors.Join(err, os.RemoveAll(s.dbPath())); err == nil {
		s.db, err = openBadger(s.dbPath(), s.log)
	}
	return err
}

// copyDB copies the database where there is room for it, and for opening it.
func (s *Store) copyDB() error {
	db := filepath.Join(s.dir, "db")
	size, err := sizeOf(db)
	if err == nil {
		err = checkSpace(s.out.free, os.TempDir(), size, openReserve)
	}
	if err != nil {
		return err
	}
	if s.copy, err = standin.New(s.dir); err != nil {
		return err
	}
	if err = os.CopyFS(s.dbPath(), os.DirFS(db)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sizeOf returns how long the files of a folder are together; of none, 0.
func sizeOf(dir string) (size int64, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, entry := range entries {
		info, ierr := entry.Info()
		if errors.Is(ierr, fs.ErrNotExist) {
			continue // Badger has it open, and has tidied it away
		}
		if ierr != nil {
			return 0, ierr
		}
		size += info.Size()
	}
	return size, err
}

// sweep removes the copy that an agent of this folder has left which was killed.
func (s *Store) sweep() {
	swept, err := standin.Sweep(s.dir)
	if len(swept) > 0 {
		s.log.Info("removed what an agent had left that worked on a copy", "dir", s.dir, "copy", swept)
	}
	if err != nil {
		s.log.Warn("what an agent may have left that worked on a copy stays", "dir", s.dir, "err", err)
	}
}

func (s *Store) dropCopy() error {
	if s.copy == nil {
		return nil
	}
	return s.copy.Close()
}

func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

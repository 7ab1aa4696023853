package fdstore

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
)

// passed is the variable that names what an agent passes on: name=descriptor, by commas.
const passed = "MOULT_FDS"

// Store keeps sockets by name. It is safe for concurrent use.
type Store struct {
	log     *slog.Logger
	manager string // its socket; "": nobody has started this process who keeps sockets

	mu   sync.Mutex
	left map[string]*os.File // by whoever was before, and not taken yet; nil once done
	kept map[string]*os.File
}

// Open takes over what was passed on to this process, once: the environment forgets it. What
// is damaged in it is logged, and left out.
func Open(log *slog.Logger) *Store {
	s := &Store{log: log, manager: os.Getenv(managerVar), left: map[string]*os.File{}, kept: map[string]*os.File{}}
	for _, f := range activation.Files(true) {
		s.found(f.Name(), f)
	}
	list := os.Getenv(passed)
	os.Unsetenv(passed)
	for entry := range strings.SplitSeq(list, ",") {
		if entry == "" {
			continue
		}
		name, number, _ := strings.Cut(entry, "=")
		fd, err := strconv.Atoi(number)
		if err == nil {
			err = own(fd)
		}
		if err != nil {
			log.Warn("a socket that was passed on is not there", "variable", passed, "entry", entry, "err", err)
			continue
		}
		s.found(name, os.NewFile(uintptr(fd), name))
	}
	return s
}

func (s *Store) found(name string, f *os.File) {
	if other := s.left[name]; other != nil {
		s.log.Warn("two sockets were passed on by one name", "name", name)
		other.Close()
	}
	s.left[name] = f
}

// Take returns the socket that was passed on by this name, which is the caller's from now on;
// nil for none.
func (s *Store) Take(name string) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.left[name]
	delete(s.left, name)
	return f
}

// Done closes what was passed on and nobody took.
func (s *Store) Done() {
	s.mu.Lock()
	left := s.left
	s.left = nil
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(left)) {
		s.log.Info("a socket of the agent before is not wanted any more", "name", name)
		left[name].Close()
		s.tell(name, nil)
	}
}

// Keep keeps a copy of a socket, which is the Store's from now on, in the place of the one
// before. Names are of letters, digits, '.', '-' and '_'.
func (s *Store) Keep(name string, copied *os.File) {
	s.mu.Lock()
	before := s.kept[name]
	s.kept[name] = copied
	s.mu.Unlock()
	if before != nil {
		before.Close()
	}
	s.tell(name, nil) // it may have one of the agent before
	s.tell(name, copied)
}

// Drop closes what is kept by a name, if anything is: its callers are nobody's.
func (s *Store) Drop(name string) {
	s.mu.Lock()
	f := s.kept[name]
	delete(s.kept, name)
	s.mu.Unlock()
	if f != nil {
		s.tell(name, nil)
		f.Close()
	}
}

// Managed reports whether a service manager may keep the sockets when this process ends.
func (s *Store) Managed() bool { return s.manager != "" }

// Pass returns the sockets that are kept for a child of this process, which finds them by the
// environment variable, as [exec.Cmd] numbers its ExtraFiles. They stay the Store's.
func (s *Store) Pass() (files []*os.File, variable string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for i, name := range slices.Sorted(maps.Keys(s.kept)) {
		files = append(files, s.kept[name])
		list = append(list, fmt.Sprintf("%s=%d", name, 3+i))
	}
	return files, passed + "=" + strings.Join(list, ",")
}

// Exec has the sockets that are kept survive an execve of this process, which must follow, and
// returns the environment variable by which they are found.
func (s *Store) Exec() (variable string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.kept)) {
		fd, err := inheritable(s.kept[name])
		errs = append(errs, err)
		list = append(list, fmt.Sprintf("%s=%d", name, fd))
	}
	return passed + "=" + strings.Join(list, ","), errors.Join(errs...)
}

// Close closes the copies of this process; those of a service manager stay.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, all := range []map[string]*os.File{s.left, s.kept} {
		for _, f := range all {
			f.Close()
		}
	}
	s.left, s.kept = nil, map[string]*os.File{}
}

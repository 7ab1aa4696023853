package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"moult/store/durable"
)

// The ballast is a file that is in nobody's way while there is room. Where the disk is
// so full that the database cannot be opened it is given up, so that an agent comes up
// and looks after its node; what else is to be written waits, as on any full disk.

func (s *Store) ballastPath() string { return filepath.Join(s.dir, "ballast") }

// makeRoom gives the ballast up where the database could not be opened without.
func (s *Store) makeRoom() error {
	err := checkSpace(s.out.free, s.dir, 0, openReserve)
	if !errors.Is(err, ErrNoSpace) {
		return err
	}
	switch rerr := os.Remove(s.ballastPath()); {
	case errors.Is(rerr, fs.ErrNotExist):
		return err
	case rerr != nil:
		return errors.Join(err, rerr)
	}
	s.log.Warn("the disk is full: the ballast is given up, so that the store can be opened", "dir", s.dir)
	return checkSpace(s.out.free, s.dir, 0, openReserve)
}

// WatchSpace returns an error that wraps ErrNoSpace where the disk is full. Where there is
// room it takes the ballast again. Agents call it now and then.
func (s *Store) WatchSpace() error {
	if err := s.CheckSpace(0); err != nil {
		return err
	}
	if err := s.takeBallast(); err != nil {
		s.log.Warn("no room is kept for opening the store on a full disk", "err", err)
	}
	return nil
}

// takeBallast makes the ballast where it is not there and there is room for it.
func (s *Store) takeBallast() error {
	info, err := os.Stat(s.ballastPath())
	if err == nil && info.Size() == ballastSize || s.CheckSpace(ballastSize) != nil {
		return nil
	}
	if err := durable.Allocate(s.ballastPath(), ballastSize); err != nil {
		return fmt.Errorf("ballast: %w", errors.Join(err, os.Remove(s.ballastPath())))
	}
	return nil
}

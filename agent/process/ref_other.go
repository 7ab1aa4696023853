//go:build unix && !linux

package process

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// refPoll is the time between two looks at an adopted process.
const refPoll = 200 * time.Millisecond

// ref is a process known by its number and start time.
type ref struct{ h Handle }

func openChild(pid int) (Handle, *ref, error) {
	h, err := handleOf(pid)
	if errors.Is(err, errors.ErrUnsupported) {
		// It can be looked after, though not adopted.
		h, err = Handle{PID: pid}, nil
	}
	if err != nil {
		return Handle{}, nil, err
	}
	return h, &ref{h}, nil
}

func openHandle(h Handle) (*ref, error) {
	now, err := handleOf(h.PID)
	if errors.Is(err, unix.ESRCH) || err == nil && now != h {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	return &ref{h}, nil
}

// await waits until the process has ended; false where closed came first.
func (r *ref) await(closed <-chan struct{}, child *os.Process, beforeReap func()) (*os.ProcessState, bool) {
	if child != nil {
		return awaitChild(closed, child, beforeReap)
	}
	tick := time.NewTicker(refPoll)
	defer tick.Stop()
	for {
		select {
		case <-closed:
			return nil, false
		case <-tick.C:
			if now, err := handleOf(r.h.PID); err != nil || now != r.h {
				beforeReap()
				return nil, true
			}
		}
	}
}

// awaitChild leaves its inner goroutine behind when closed comes first: there
// is no way to end a wait for a child.
func awaitChild(closed <-chan struct{}, child *os.Process, afterReap func()) (*os.ProcessState, bool) {
	reaped := make(chan *os.ProcessState, 1)
	go func() {
		state, _ := child.Wait()
		reaped <- state
	}()
	select {
	case <-closed:
		return nil, false
	case state := <-reaped:
		afterReap()
		return state, true
	}
}

func (r *ref) signal(sig unix.Signal) error {
	if now, err := handleOf(r.h.PID); err == nil && now != r.h {
		return unix.ESRCH
	}
	return unix.Kill(r.h.PID, sig)
}

func (r *ref) close() {}

// killSession kills the process group that h began.
func killSession(h Handle) error {
	if err := unix.Kill(-h.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}

// stopMarked cannot find anything where environments cannot be read.
func stopMarked(string, *os.File, []int) error { return nil }

// FindOrphans finds nothing where environments cannot be read.
func FindOrphans(string, ...int) ([]Handle, error) { return nil, nil }

//go:build unix

package screen

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// suspension is how a shell stops this process (Ctrl-Z), and has it go on.
type suspension struct{ stop, goOn chan os.Signal }

// suspensions asks for them. Where no shell is in the same session nobody could have the
// process go on: the kernel does not stop it, then, as long as the signal is not asked for.
func suspensions() suspension {
	session, err := unix.Getsid(0)
	if err != nil || session == unix.Getpgrp() || signal.Ignored(unix.SIGTSTP) {
		return suspension{}
	}
	s := suspension{stop: make(chan os.Signal, 1), goOn: make(chan os.Signal, 1)}
	signal.Notify(s.stop, unix.SIGTSTP)
	signal.Notify(s.goOn, unix.SIGCONT)
	return s
}

// follow stops the process, and returns when it goes on.
func (s suspension) follow() {
	select {
	case <-s.goOn: // from an earlier stop
	default:
	}
	// Go never gives SIGTSTP its own effect back.
	if unix.Kill(os.Getpid(), unix.SIGSTOP) == nil {
		<-s.goOn
	}
}

func (s suspension) end() {
	if s.stop != nil {
		signal.Stop(s.stop)
		signal.Stop(s.goOn)
	}
}

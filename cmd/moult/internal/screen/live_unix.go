//go:build unix

package screen

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// suspends gives the terminal back while the shell has this process stopped (Ctrl-Z), until
// the Live is closed. Where no shell is in the same session nobody could have the process go
// on: the kernel does not stop it, then, as long as the signal is not asked for.
func (l *Live) suspends() {
	session, err := unix.Getsid(0)
	if err != nil || session == unix.Getpgrp() || signal.Ignored(unix.SIGTSTP) {
		return
	}
	stop, goOn := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTSTP)
	defer signal.Stop(stop)
	signal.Notify(goOn, unix.SIGCONT)
	defer signal.Stop(goOn)
	for {
		select {
		case <-stop:
		case <-l.closing:
			return
		case <-l.ended:
			return
		}
		_ = l.program.ReleaseTerminal() // it is stopped in any case
		select {
		case <-goOn: // from an earlier stop
		default:
		}
		// Go never gives SIGTSTP its own effect back.
		if unix.Kill(os.Getpid(), unix.SIGSTOP) == nil {
			<-goOn
		}
		_ = l.program.RestoreTerminal() // without input, nothing of it can fail
	}
}

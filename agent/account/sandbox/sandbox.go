// Package sandbox holds a program to its folders, whoever's it is: it reads and executes
// what the system has and what it is given, and writes to what it is given; it has no way
// to the agent's data folder beside that, and to processes that it did not begin. It is for
// programs that work for the node beside its software: transforms, checks of rehearsals,
// and simulation objects. They cannot leave it, nor can what they begin, and whoever is
// called by them can tell: see [Inside].
//
// It needs Linux with Landlock (5.13; 6.12 for all of it): see [Lacks]. Elsewhere it does
// nothing.
package sandbox

import "slices"

// Sandbox says what a program may reach. A nil *Sandbox is none. It is a value: nothing of
// it changes once it is in use.
type Sandbox struct {
	// Read are files and folders that the program may read and execute beside the
	// system's, and Write those that it may write to, too. What is not there is left out.
	Read, Write []string
	// Kept are files and folders that it may not reach although they lie below one of the
	// system's, or of the operator's (see Given): the agent's data folder, and its keys.
	Kept []string
	// Given are folders that the operator lets programs reach, and GivenToWrite those to
	// which they may write. Kept holds in both.
	Given, GivenToWrite []string
	// Signals lets it send signals to, and call abstract sockets of, processes that it
	// did not begin.
	Signals bool
}

// Of is the sandbox with folders of one program's own, those that are not "".
func (s *Sandbox) Of(read, write []string) *Sandbox {
	if s == nil {
		return nil
	}
	own := *s
	none := func(path string) bool { return path == "" }
	own.Read = slices.DeleteFunc(slices.Concat(s.Read, read), none)
	own.Write = slices.DeleteFunc(slices.Concat(s.Write, write), none)
	return &own
}

// Outside calls f on another thread than the caller's, which may be in a sandbox: in one,
// other processes cannot be looked at, and /proc does not say so of all that it leaves out.
func Outside(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }() // the runtime begins no thread from one that is locked
	return <-done
}

// Signalling is the sandbox of a program that may signal others.
func (s *Sandbox) Signalling() *Sandbox {
	if s == nil {
		return nil
	}
	own := *s
	own.Signals = true
	return &own
}

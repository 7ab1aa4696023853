package software

import (
	"moult/agent/process"
	"moult/store/bundle"
)

// Event is something that happened to the software.
type Event interface{ event() }

// Starting says that a version is about to be started: from now on the node's
// calls to its peers are that version's. The start waits until Tell returns.
type Starting struct{ Version bundle.Version }

// Ready says that a version passes its health check, after each of its starts.
type Ready struct {
	Version   bundle.Version
	Backends  map[string]string // service to the address where the software listens
	Processes []int             // among which its sockets are
}

// NotReady says that a version is not ready in its time, or cannot be started.
// It is tried again.
type NotReady struct {
	Version bundle.Version
	Err     error
}

// Failing says that the checks of a version fail, though it was ready and runs, and
// Passing that they do not any more.
type Failing struct {
	Version bundle.Version
	Err     error
}
type Passing struct{ Version bundle.Version }

// Ended says that a version has ended without being asked to. It is started again.
type Ended struct {
	Version bundle.Version
	Exit    process.Exit
}

// Draining says that no version is kept up any more and callers are not to reach it: it
// is about to be stopped.
type Draining struct{}

func (Starting) event() {}
func (Ready) event()    {}
func (NotReady) event() {}
func (Failing) event()  {}
func (Passing) event()  {}
func (Ended) event()    {}
func (Draining) event() {}

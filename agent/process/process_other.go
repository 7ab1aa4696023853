//go:build !unix

package process

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// errSystem says that node software cannot be looked after here. Everything else of
// this file is there for the command line, which is built for this system, too.
var errSystem = errors.New("node software is looked after on Linux and macOS only")

type ref struct{}

func openChild(int) (Handle, *ref, error)      { return Handle{}, nil, errSystem }
func openHandle(Handle) (*ref, error)          { return nil, errSystem }
func (*ref) signal(syscall.Signal) error       { return errSystem }
func (*ref) close()                            {}
func killSession(Handle) error                 { return errSystem }
func stopMarked(string, *os.File, []int) error { return errSystem }
func newSession() *syscall.SysProcAttr         { return nil }
func newGroup() *syscall.SysProcAttr           { return nil }
func killGroup(int) error                      { return errSystem }
func signalName(sig syscall.Signal) string     { return sig.String() }
func endWithParent(*syscall.SysProcAttr)       {}
func taken(net.Conn) (bool, error)             { return false, errSystem }

func beginIn(*syscall.SysProcAttr, *os.File) error { return errSystem }

func (*ref) await(<-chan struct{}, *os.Process, func()) (*os.ProcessState, bool) { return nil, false }

// FindOrphans fails: none can be there.
func FindOrphans(string, ...int) ([]Handle, error) { return nil, errSystem }

//go:build !unix

package child

import (
	"errors"
	"log/slog"
	"os"
	"syscall"
)

// errSystem says that simulation objects have no processes here. This file is there for
// the command line, which is built for this system, too.
var errSystem = errors.New("simulation objects run on Linux and macOS only")

// ThisProgram is not needed here.
func ThisProgram() string { return os.Args[0] }

// LimitMemory fails here.
func LimitMemory(int64) error { return errSystem }

// MachineMemory is not known here.
func MachineMemory() int64 { return 2 * unknownMemory }

func newSession() *syscall.SysProcAttr   { return nil }
func endWithParent(*syscall.SysProcAttr) {}

func endThreadWithParent() error      { return nil }
func signalGroup(int, syscall.Signal) {}

func (c *Child) run(started chan<- error, _ *os.File, _ *slog.Logger) { started <- errSystem }

// Works is not asked here.
func (c *Child) Works() bool { return false }

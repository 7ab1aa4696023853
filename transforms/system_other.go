//go:build !unix

package transforms

import (
	"errors"
	"os"
	"os/exec"

	"moult/agent/account"
	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
	"moult/store/bundle"
)

// errSystem says that transforms are not run here. Everything else of this file is
// there for the command line, which is built for this system, too.
var errSystem = errors.New("transforms run on Linux and macOS only")

var errNoMount = errSystem

type confinement struct {
	readOnly  []string
	memoryMax int64
	newSlot   string
	account   *account.Account
	sandbox   *sandbox.Sandbox
	bounds    *bounds.Bounds
}

func runConfined(*exec.Cmd, confinement) error { return errSystem }
func mayMount() bool                           { return false }

// CanLimit reports nothing here.
func CanLimit(bundle.Transform, *account.Account) error { return nil }

func syncFileSystem(string) (bool, error)           { return false, nil }
func owner(os.FileInfo) (uid, gid int, ok bool)     { return 0, 0, false }
func namesOf(os.FileInfo) (i inode, n uint64)       { return i, 0 }
func onDisk(info os.FileInfo) int64                 { return info.Size() }
func appendIdentity(b []byte, _ os.FileInfo) []byte { return b }

// nextData takes the rest of a file as data.
func nextData(_ *os.File, off, size int64) (start, end int64, err error) { return off, size, nil }

//go:build !unix

package host

import (
	"errors"
	"io/fs"
)

// No simulation object has a process here: this file is there for the command line,
// which is built for this system, too.

func closeOnExec(int)                 {}
func setNonblock(uintptr, bool) error { return errors.ErrUnsupported }
func isOwn(fs.FileInfo) bool          { return false }

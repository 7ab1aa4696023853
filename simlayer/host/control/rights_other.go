//go:build !unix

package control

import (
	"errors"
	"os"
)

// errSystem says that sockets are not passed here. This file is there for the command
// line, which is built for this system, too.
var errSystem = errors.New("simulation objects run on Linux and macOS only")

func rightsOf([]int) []byte               { return nil }
func rightsSpace() int                    { return 0 }
func received([]byte) ([]*os.File, error) { return nil, errSystem }

// Pair fails here.
func Pair() (ours, theirs *os.File, err error) { return nil, nil, errSystem }

//go:build !unix

package fdstore

import (
	"errors"
	"os"
)

// No agent runs here.
func own(int) error                       { return errors.ErrUnsupported }
func inheritable(*os.File) (int, error)   { return 0, errors.ErrUnsupported }
func send(string, string, *os.File) error { return errors.ErrUnsupported }

//go:build !unix

package archive

import "errors"

// umask does nothing where processes have no mask.
func umask(int) (back func()) { return func() {} }

func mkfifo(string) error { return errors.ErrUnsupported }

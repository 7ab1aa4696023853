//go:build !unix

package stream

import "errors"

// Peek is not to be had here: no agent runs on this system.
func Peek(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

// Take is not to be had here.
func Take(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

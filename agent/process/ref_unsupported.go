//go:build unix && !linux && !darwin

package process

import (
	"errors"
	"fmt"
)

func handleOf(pid int) (Handle, error) {
	return Handle{}, fmt.Errorf("start time of process %d: %w", pid, errors.ErrUnsupported)
}

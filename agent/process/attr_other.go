//go:build unix && !linux

package process

import (
	"errors"
	"os"
	"syscall"
)

func endWithParent(*syscall.SysProcAttr) {}

func beginIn(*syscall.SysProcAttr, *os.File) error {
	return errors.New("begin in a cgroup: only Linux has them")
}

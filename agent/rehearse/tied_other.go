//go:build !linux

package rehearse

import (
	"errors"
	"os/exec"
)

func supported() error {
	return errors.New("only Linux gives a process a network of its own, and finds what it has begun")
}

func runTied(cmd *exec.Cmd, _ apartness) error { return cmd.Run() }
func alone(apartness) error                    { return errors.ErrUnsupported }
func freeMemory() (int64, error)               { return 0, errors.ErrUnsupported }
func giveWay() error                           { return nil }
func without(...string) error                  { return errors.ErrUnsupported }

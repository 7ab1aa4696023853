//go:build unix && !linux

package transforms

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"moult/agent/account"
	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
	"moult/store/bundle"
)

// errNoMount is returned where the old slot cannot be mounted read-only here.
var errNoMount = errors.New("no read-only mount of the old slot on this system")

// confinement is what a program is held to. Here there is no memory limit.
type confinement struct {
	readOnly  []string
	memoryMax int64
	newSlot   string
	account   *account.Account
	sandbox   *sandbox.Sandbox
	bounds    *bounds.Bounds
}

func mayMount() bool { return false }

// CanLimit reports nothing: there is no memory limit.
func CanLimit(bundle.Transform, *account.Account) error { return nil }

// runConfined starts cmd and waits for it. When it returns, no process of
// cmd's group is left.
func runConfined(cmd *exec.Cmd, c confinement) error {
	if len(c.readOnly) > 0 {
		return errNoMount
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.account.Dress(cmd)
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	err := cmd.Wait()
	unix.Kill(-pid, unix.SIGKILL)
	return err
}

func syncFileSystem(string) (bool, error) { return false, nil }

// nextData takes the rest of a file as data.
func nextData(_ *os.File, off, size int64) (start, end int64, err error) {
	return off, size, nil
}

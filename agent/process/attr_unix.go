//go:build unix

package process

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// newSession has a program begin a session of its own, newGroup a process group.
func newSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
func newGroup() *syscall.SysProcAttr   { return &syscall.SysProcAttr{Setpgid: true} }

// killGroup kills the process group that a process began.
func killGroup(pid int) error { return unix.Kill(-pid, unix.SIGKILL) }

func signalName(sig syscall.Signal) string { return unix.SignalName(sig) }

//go:build unix

package child

import "syscall"

// newSession has a program begin a session of its own.
func newSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// signalGroup sends to the process group that a process began. It may have ended.
func signalGroup(pid int, sig syscall.Signal) { _ = syscall.Kill(-pid, sig) }

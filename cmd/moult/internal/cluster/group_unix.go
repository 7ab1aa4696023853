//go:build unix

package cluster

import "syscall"

// ownGroup keeps an interrupt of the terminal from an agent: it is its starter's to
// handle.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

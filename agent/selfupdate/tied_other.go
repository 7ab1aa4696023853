//go:build !linux

package selfupdate

import (
	"os"
	"os/exec"
	"syscall"
)

func tie(*exec.Cmd) {}

func runTied(cmd *exec.Cmd, _ uint64) error { return cmd.Run() }

// endOrphan: only Linux tells what a process runs without doubt. One that is left goes on as the
// agent, and has the data folder.
func endOrphan(string, string) error { return nil }

func become(program string, env []string) error {
	return os.NewSyscallError("execve", syscall.Exec(program, os.Args, env))
}

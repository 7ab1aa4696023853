package kit

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// Alive reports whether a process runs. A zombie, which only its parent can take
// away, does not.
func Alive(pid int) bool {
	if runtime.GOOS != "linux" {
		p, err := os.FindProcess(pid) // which fails only on Windows
		return err == nil && (runtime.GOOS == "windows" || p.Signal(syscall.Signal(0)) == nil)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := stat[bytes.LastIndexByte(stat, ')')+2]
	return state != 'Z' && state != 'X'
}

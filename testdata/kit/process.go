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
		return syscall.Kill(pid, 0) == nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := stat[bytes.LastIndexByte(stat, ')')+2]
	return state != 'Z' && state != 'X'
}

//go:build unix && !linux

package child

import (
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
)

// ThisProgram is this binary.
func ThisProgram() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

func endWithParent(*syscall.SysProcAttr) {}

func endThreadWithParent() error { return nil }

// run starts the process and sees it to its end.
func (c *Child) run(started chan<- error, out *os.File, log *slog.Logger) {
	if err := c.cmd.Start(); err != nil {
		started <- err
		return
	}
	var lines sync.WaitGroup
	lines.Go(func() { logLines(out, &c.last, log.With("pid", c.PID())) })
	started <- nil
	err := c.cmd.Wait()
	c.mu.Lock()
	// What is left of its group keeps the number from becoming another's.
	c.signal(syscall.SIGKILL)
	c.reaped = true
	c.mu.Unlock()
	_ = out.SetReadDeadline(time.Now().Add(strayWait))
	lines.Wait()
	out.Close()
	c.finish(err, nil)
}

// LimitMemory does nothing: there is no limit on this system that would hold.
func LimitMemory(int64) error { return nil }

// MachineMemory is not known: nothing is limited.
func MachineMemory() int64 { return 2 * unknownMemory }

// Works cannot be told here: it may.
func (c *Child) Works() bool { return true }

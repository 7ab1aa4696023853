//go:build unix && !linux

package host

import (
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
)

// thisProgram is this binary.
func thisProgram() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

func endWithParent(*syscall.SysProcAttr) {}

// run starts the process and sees it to its end.
func (c *child) run(started chan<- error, out *os.File, log *slog.Logger) {
	if err := c.cmd.Start(); err != nil {
		started <- err
		return
	}
	var lines sync.WaitGroup
	lines.Go(func() { logLines(out, &c.last, log.With("pid", c.pid())) })
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

// limitMemory does nothing: there is no limit on this system that would hold.
func limitMemory(int64) error { return nil }

// waiting is not known on this system.
func waiting(*socket) (int, bool) { return 0, false }

// listensAt is not known on this system.
func listensAt(mark, addr string) bool { return false }

// machineMemory is not known: nothing is limited.
func machineMemory() int64 { return 2 * maxDefaultMemory }

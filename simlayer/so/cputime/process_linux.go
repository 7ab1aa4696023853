package cputime

import (
	"time"

	"golang.org/x/sys/unix"
)

// process is the processor time that this process has had.
func process() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0 // then only the tenfold time ends anything; this kernel has had the clock since 2.6
	}
	return time.Duration(t.Nano())
}

package host

import (
	"testing"
	"testing/synctest"
	"time"
)

// A process that sleeps is killed soon, one that works much later, and none that is
// heard.
func TestWatchdog(t *testing.T) {
	const patience = time.Second
	for _, c := range []struct {
		works bool
		after time.Duration // when it is killed, counted from the last sign of life
	}{{false, patience + lastLook}, {true, busyFactor * patience}} {
		synctest.Test(t, func(t *testing.T) {
			killed := make(chan time.Time, 1)
			w := watch(func() bool { return c.works }, func(error) { killed <- time.Now() })
			defer w.stop()
			for range 20 {
				time.Sleep(patience - 1)
				w.hear(patience)
			}
			heard := time.Now()
			if got := (<-killed).Sub(heard); got != c.after {
				t.Errorf("working is %v: killed after %v, want %v", c.works, got, c.after)
			}
		})
	}
}

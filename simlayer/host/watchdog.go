package host

import (
	"fmt"
	"sync"
	"time"
)

// watchdog has an object host killed that gives no sign of life for too long.
type watchdog struct {
	works func() bool // see [child.Child.Works]
	kill  func(blame error)

	mu       sync.Mutex
	heard    time.Time
	patience time.Duration
	timer    *time.Timer
}

// watch begins with the patience that a process needs to begin.
func watch(works func() bool, kill func(error)) *watchdog {
	w := &watchdog{works: works, kill: kill, heard: time.Now(), patience: readyTimeout}
	w.timer = time.AfterFunc(w.patience, w.look)
	return w
}

// hear takes in a sign of life.
func (w *watchdog) hear(patience time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard, w.patience = time.Now(), patience
	w.timer.Reset(patience)
}

func (w *watchdog) stop() { w.timer.Stop() }

// look looks twice at least, since it may be the agent that was not scheduled, and
// leaves time to a process that works.
func (w *watchdog) look() {
	works := w.works()
	w.mu.Lock()
	silent := time.Since(w.heard)
	late := silent >= w.patience+lastLook && (!works || silent >= busyFactor*w.patience)
	if !late {
		w.timer.Reset(lastLook)
	}
	w.mu.Unlock()
	if late {
		w.kill(fmt.Errorf("it was killed: it gave no sign of life for %v", silent.Round(time.Millisecond)))
	}
}

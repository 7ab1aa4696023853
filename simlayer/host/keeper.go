package host

import (
	"log/slog"
	"sync"
	"time"
)

// State is what a process of a Host does.
type State string

const (
	StateIdle     State = "idle"     // not needed
	StateStarting State = "starting" // callers wait in the queue
	StateRunning  State = "running"
	StateResting  State = "resting" // it ended; callers are refused until the next start, if that takes long
)

// keeper keeps one process up: it starts it, and starts it again, with growing
// pauses, whenever it ends.
type keeper struct {
	log      *slog.Logger
	grace    time.Duration
	min, max time.Duration // of the pauses
	// launch starts the process; it returns when it is ready, or with an error
	// when nothing runs.
	launch func(stop <-chan struct{}) (*child, error)
	// resting is called when a longer pause begins, and starting before each
	// start.
	resting, starting func()

	// afresh has one where a pause is to end, since what made the process end may be gone.
	afresh   chan struct{}
	stop     chan struct{}
	stopOnce sync.Once
	done     chan struct{}

	mu       sync.Mutex
	state    State
	problem  string // why it is not running; "" where it is
	refusing bool   // callers are told problem
	restarts int
	pid      int
}

// run keeps the process up until halt.
func (k *keeper) run() {
	defer close(k.done)
	var pauses backoff
	for !k.halted() {
		k.set(StateStarting, "", 0) // first: sockets that are new are not refused any more
		k.starting()
		began := time.Now()
		c, err := k.launch(k.stop)
		if err == nil {
			k.set(StateRunning, "", c.pid())
			select {
			case <-c.done:
				err = c.err
			case <-k.stop:
				c.end(k.grace)
			}
		}
		if k.halted() {
			break
		}
		pause := pauses.next(time.Since(began), k.min, k.max)
		k.log.Warn("a process of simulation objects ended; it is started again", "err", err, "in", pause)
		k.rest(err, pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-k.afresh:
			timer.Stop()
			pauses = backoff{}
		case <-k.stop:
			timer.Stop()
		}
	}
	k.set(StateIdle, "", 0)
}

// rest begins a pause after err. Callers wait through a short one.
func (k *keeper) rest(err error, pause time.Duration) {
	problem := err.Error()
	if len(problem) > maxProblem {
		problem = problem[:maxProblem]
	}
	k.mu.Lock()
	k.state, k.problem, k.pid = StateResting, problem, 0
	k.restarts++
	k.refusing = pause > quietPause
	refusing := k.refusing
	k.mu.Unlock()
	if refusing {
		k.resting()
	}
}

func (k *keeper) set(s State, problem string, pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state, k.pid, k.refusing = s, pid, false
	if s != StateStarting { // while it starts, why it had ended is still of use
		k.problem = problem
	}
}

// now returns what the process does.
func (k *keeper) now() (s State, problem string, restarts, pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state, k.problem, k.restarts, k.pid
}

func (k *keeper) refuses() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refusing
}

// renew ends the pause that the process is in, if it is in one.
func (k *keeper) renew() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state != StateResting {
		return
	}
	select {
	case k.afresh <- struct{}{}:
	default:
	}
}

func (k *keeper) halted() bool {
	select {
	case <-k.stop:
		return true
	default:
		return false
	}
}

// halt ends the process politely and returns when all of it has ended.
func (k *keeper) halt() {
	k.stopOnce.Do(func() { close(k.stop) })
	<-k.done
}

// backoff is the sequence of pauses between restarts.
type backoff struct{ last time.Duration }

// next returns the pause after a process that was up for a time.
func (b *backoff) next(up, shortest, longest time.Duration) time.Duration {
	if up >= pauseReset {
		b.last = 0
	}
	b.last = min(max(2*b.last, shortest), longest)
	return b.last
}

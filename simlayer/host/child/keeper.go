package child

import (
	"log/slog"
	"sync"
	"time"
)

// State is what a process does that is kept up.
type State string

const (
	StateIdle     State = "idle"     // not needed
	StateStarting State = "starting" // callers wait in the queue
	StateRunning  State = "running"
	StateResting  State = "resting" // it ended; callers are refused until the next start, if that takes long
)

// Plan is how a Keeper keeps its process up.
type Plan struct {
	Log   *slog.Logger
	Grace time.Duration // to end, when asked to
	// MinPause and MaxPause bound the pauses between starts, which double.
	MinPause, MaxPause time.Duration
	// Launch starts the process; it returns when it is ready, or with an error
	// when nothing runs. It gives up once stop is closed.
	Launch func(stop <-chan struct{}) (*Child, error)
	// Resting is called when a longer pause begins, and Starting before each
	// start.
	Resting, Starting func()
}

// Keeper keeps one process up: it starts it, and starts it again, with growing
// pauses, whenever it ends. It is safe for concurrent use.
type Keeper struct {
	plan Plan

	// afresh has one where a pause is to end, since what made the process end may be gone.
	afresh   chan struct{}
	stop     chan struct{}
	stopOnce sync.Once
	done     chan struct{}

	mu       sync.Mutex
	now      Condition
	refusing bool // callers are told the problem
}

// Condition is how a kept process is.
type Condition struct {
	State    State
	Problem  string // why it is not running; "" where it is
	Restarts int
	PID      int // 0 where it is not running
}

// NewKeeper returns a Keeper that does nothing before Run; until then its process
// counts as being in a state.
func NewKeeper(p Plan, before State) *Keeper {
	return &Keeper{
		plan: p, now: Condition{State: before},
		afresh: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// Run keeps the process up until Halt.
func (k *Keeper) Run() {
	defer close(k.done)
	var pauses backoff
	for !k.halted() {
		k.set(StateStarting, "", 0) // first: sockets that are new are not refused any more
		k.plan.Starting()
		began := time.Now()
		c, err := k.plan.Launch(k.stop)
		if err == nil {
			k.set(StateRunning, "", c.PID())
			select {
			case <-c.done:
				err = c.err
			case <-k.stop:
				c.end(k.plan.Grace)
			}
		}
		if k.halted() {
			break
		}
		pause := pauses.next(time.Since(began), k.plan.MinPause, k.plan.MaxPause)
		k.plan.Log.Warn("a process of simulation objects ended; it is started again", "err", err, "in", pause)
		k.pause(err, pause)
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

// pause begins one after err. Callers wait through a short one.
func (k *Keeper) pause(err error, pause time.Duration) {
	problem := err.Error()
	if len(problem) > maxProblem {
		problem = problem[:maxProblem]
	}
	k.mu.Lock()
	k.now.State, k.now.Problem, k.now.PID = StateResting, problem, 0
	k.now.Restarts++
	k.refusing = pause > quietPause
	refusing := k.refusing
	k.mu.Unlock()
	if refusing {
		k.plan.Resting()
	}
}

func (k *Keeper) set(s State, problem string, pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.State, k.now.PID, k.refusing = s, pid, false
	if s != StateStarting { // while it starts, why it had ended is still of use
		k.now.Problem = problem
	}
}

// Now returns how the process is.
func (k *Keeper) Now() Condition {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// Done is closed once the process has ended after Halt.
func (k *Keeper) Done() <-chan struct{} { return k.done }

// Refuses reports whether the process is in a pause through which callers do not
// wait.
func (k *Keeper) Refuses() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refusing
}

// Renew ends the pause that the process is in, if it is in one.
func (k *Keeper) Renew() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now.State != StateResting {
		return
	}
	select {
	case k.afresh <- struct{}{}:
	default:
	}
}

func (k *Keeper) halted() bool {
	select {
	case <-k.stop:
		return true
	default:
		return false
	}
}

// Halt ends the process politely and returns when all of it has ended.
func (k *Keeper) Halt() {
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

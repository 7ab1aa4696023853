package stream

import "sync"

// Tasks counts goroutines, so that whoever started them can wait for their end. In
// contrast to a sync.WaitGroup it can be closed while others begin. The zero value
// is open. It is safe for concurrent use.
type Tasks struct {
	mu     sync.Mutex
	n      int
	closed bool
	none   chan struct{}
}

// Begin reports false after Close: the task must not run. Else End must follow.
func (t *Tasks) Begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.n++
	return true
}

// End ends what Begin has begun.
func (t *Tasks) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.closed && t.n == 0 {
		close(t.none)
	}
}

// Go runs f in a goroutine of its own, and reports false where it must not.
func (t *Tasks) Go(f func()) bool {
	if !t.Begin() {
		return false
	}
	go func() {
		defer t.End()
		f()
	}()
	return true
}

// Close lets no more tasks begin; the channel is closed when the last has ended.
// It may be called again.
func (t *Tasks) Close() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		t.none = make(chan struct{})
		if t.n == 0 {
			close(t.none)
		}
	}
	return t.none
}

package packets

import "time"

// held is a datagram that waits.
type held struct {
	session     *session
	data        []byte
	from, until time.Time
}

// wait passes on what waits when the node is back, and drops what has waited too
// long. It ends when nothing waits.
func (r *Relay) wait() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, changed, more := r.settle()
		if !more {
			return
		}
		timer.Reset(time.Until(next))
		select {
		case <-changed:
		case <-timer.C:
		case <-r.done:
			return
		}
	}
}

// settle does what the way allows with what waits. If something goes on waiting,
// more is true, next is when it has waited too long, and changed is closed when the
// way may have become another.
func (r *Relay) settle() (next time.Time, changed <-chan struct{}, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	way := r.cfg.Target.Way() // locked, as in take: a way of before may lead to a node that is gone
	switch {
	case r.closed:
	case way.Addr != "":
		r.flush(way)
	case way.Hold <= 0:
		for len(r.queue) > 0 {
			r.drop(way, r.next(), &r.stats.NoTarget)
		}
	default:
		now := time.Now()
		for len(r.queue) > 0 && !r.queue[0].until.After(now) {
			r.drop(way, r.next(), &r.stats.Expired)
		}
	}
	if r.closed || len(r.queue) == 0 {
		r.waiting = false
		return time.Time{}, nil, false
	}
	return r.queue[0].until, way.Changed, true
}

// next takes the first datagram that waits. The lock is held, as in all below.
func (r *Relay) next() held {
	h := r.queue[0]
	r.queue[0] = held{}
	r.queue = r.queue[1:]
	if len(r.queue) == 0 {
		r.queue = nil
	}
	r.queued -= len(h.data)
	h.session.held--
	return h
}

// drop gives a datagram up; with the last of a session that has no other reason
// to be, the session goes.
func (r *Relay) drop(way Way, h held, why *int64) {
	r.lose(way, why, time.Since(h.from))
	r.endIfUnused(h.session)
}

// flush passes on all that waits.
func (r *Relay) flush(way Way) {
	for len(r.queue) > 0 {
		h := r.next()
		if time.Now().After(h.until) {
			r.drop(way, h, &r.stats.Expired)
			continue
		}
		r.send(h.session, way, h.data, time.Since(h.from))
	}
}

package gate

import "net/netip"

// waiting are the calls that wait, by whence they come, of which there is only room for some.
// Where all places are taken one is made for a caller whose address has two less than
// another: of the one that has most the call ends that came last. So an address that takes
// all places has them only while nobody else wants one, and one behind which many callers
// are, as that of a balancer, may take as many as are free.
type waiting struct {
	most, n int
	from    map[netip.Prefix]map[*waiter]struct{}
	came    uint64
}

// waiter is one wait of a call.
type waiter struct {
	from netip.Prefix
	came uint64
	shed chan struct{} // closed when it has to go
}

// enter begins a wait; nil where there is no room.
func (w *waiting) enter(from netip.Prefix) *waiter {
	if w.n >= w.most && !w.makeRoom(from) {
		return nil
	}
	if w.from == nil {
		w.from = map[netip.Prefix]map[*waiter]struct{}{}
	}
	if w.from[from] == nil {
		w.from[from] = map[*waiter]struct{}{}
	}
	w.came++
	one := &waiter{from: from, came: w.came, shed: make(chan struct{})}
	w.from[from][one] = struct{}{}
	w.n++
	return one
}

// leave ends a wait, if it has not been ended before.
func (w *waiting) leave(one *waiter) {
	if _, here := w.from[one.from][one]; !here {
		return
	}
	if delete(w.from[one.from], one); len(w.from[one.from]) == 0 {
		delete(w.from, one.from)
	}
	w.n--
}

// makeRoom ends a wait for one from an address, and reports whether it did.
func (w *waiting) makeRoom(from netip.Prefix) bool {
	most := len(w.from[from]) + 2
	var last *waiter
	for _, all := range w.from {
		if len(all) < most {
			continue
		}
		if len(all) > most {
			most, last = len(all), nil
		}
		for one := range all {
			if last == nil || one.came > last.came {
				last = one
			}
		}
	}
	if last == nil {
		return false
	}
	w.leave(last)
	close(last.shed)
	return true
}

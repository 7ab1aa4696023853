package gate

// ring is some of the tickets.
type ring[R comparable] struct {
	head Ticket[R] // none of them
	n    int
}

func (r *ring[R]) add(t *Ticket[R]) {
	if r.head.next == nil {
		r.head.prev, r.head.next = &r.head, &r.head
	}
	t.ring, t.prev, t.next = r, r.head.prev, &r.head
	t.prev.next, t.next.prev = t, t
	r.n++
}

func (r *ring[R]) remove(t *Ticket[R]) {
	t.prev.next, t.next.prev = t.next, t.prev
	t.ring, t.prev, t.next = nil, nil, nil
	r.n--
}

// all yields the tickets; the one that is being looked at may be removed.
func (r *ring[R]) all(yield func(*Ticket[R]) bool) {
	for t := r.head.next; t != nil && t != &r.head; {
		next := t.next
		if !yield(t) {
			return
		}
		t = next
	}
}

// everybody yields the calls at the node. Callers hold mu.
func (g *Gate[R]) everybody(yield func(*Ticket[R]) bool) {
	for _, r := range []*ring[R]{&g.before, &g.inside} {
		for t := range r.all {
			if !yield(t) {
				return
			}
		}
	}
}

// Package agenda is virtual time: what will happen, in order.
package agenda

import "time"

// Event is something that will happen.
type Event struct {
	At  time.Duration
	Seq uint64 // of two at one time, the one that was asked for first comes first
	Do  func()
}

func (e Event) before(o Event) bool { return e.At < o.At || (e.At == o.At && e.Seq < o.Seq) }

// Agenda is what will happen, the earliest first. Its zero value is empty.
type Agenda struct {
	events []Event
	seq    uint64
}

// Push has do happen at a time.
func (q *Agenda) Push(at time.Duration, do func()) {
	q.seq++
	q.events = append(q.events, Event{at, q.seq, do})
	for i := len(q.events) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.events[i].before(q.events[up]) {
			break
		}
		q.events[i], q.events[up] = q.events[up], q.events[i]
		i = up
	}
}

// Pop takes off what happens next; there is something.
func (q *Agenda) Pop() Event {
	top := q.events[0]
	n := len(q.events) - 1
	q.events[0] = q.events[n]
	q.events[n] = Event{}
	q.events = q.events[:n]
	for i := 0; ; {
		least := i
		for _, down := range [2]int{2*i + 1, 2*i + 2} {
			if down < n && q.events[down].before(q.events[least]) {
				least = down
			}
		}
		if least == i {
			return top
		}
		q.events[i], q.events[least] = q.events[least], q.events[i]
		i = least
	}
}

// Len is how much there is.
func (q *Agenda) Len() int { return len(q.events) }

package fleet

import (
	"container/heap"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
)

// event is what happens to a node: an answer to its machine, or that the others hear of it,
// or, of no node, that some may ask again.
type event struct {
	at     time.Duration
	seq    uint64
	node   int
	answer upgrade.Event
	heard  *view.Record
}

// queue is a heap: of two events at one time the one that was asked for first comes first.
type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

func (q *queue) pop() event { return heap.Pop(q).(event) }

func (f *fleet) push(e event) {
	f.seq++
	e.seq = f.seq
	heap.Push(&f.queue, e)
}

func (f *fleet) after(d time.Duration, i int, answer upgrade.Event) {
	f.push(event{at: f.now + d, node: i, answer: answer})
}

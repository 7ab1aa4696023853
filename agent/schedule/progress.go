package schedule

import (
	"maps"
	"slices"
	"time"
)

// Behind counts the nodes that the order does not skip and that have not said that they are where
// it leads: as long as it falls, the rollout gets on.
func (t *Tally) Behind() (n int) {
	for _, class := range slices.Sorted(maps.Keys(t.order.Classes)) {
		n += t.of(class).elsewhere.n
	}
	return n
}

// Idles reports whether it is for a rollout to get on now: it runs, and a class has nodes left
// whose places are open, and which no closed windows keep. A window whose time zone is not
// known here counts as closed.
func (t *Tally) Idles(now time.Time, zone func(string) (*time.Location, error)) bool {
	if t.order.State != StateRunning {
		return false
	}
	for _, class := range slices.Sorted(maps.Keys(t.order.Classes)) {
		c := t.order.Classes[class]
		if t.of(class).open.n == 0 {
			continue
		}
		if open, _, err := Open(c.Windows, now, zone); len(c.Windows) == 0 || err == nil && open || t.order.Back() {
			return true
		}
	}
	return false
}

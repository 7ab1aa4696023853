package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"moult/store/bundle"
)

// afterClasses makes it wait until the nodes of the classes that settle first have, and
// are well. A node whose agent has left is not waited for.
func (d *decision) afterClasses() (Decision, bool) {
	for _, class := range d.class.After {
		if d.now || d.order.Back() {
			break
		}
		other := d.Tally.of(class)
		var open []bundle.NodeID
		command := d.nowCommand()
		for i := range other.unsettled.all(0, len(other.members)) {
			id := other.members[i].id
			if open = append(open, id); other.failed.has(i) { // better mended than passed over
				command = fmt.Sprintf("moult retry --release %d %s", d.order.Release, d.name(id))
			}
		}
		if len(open) > 0 {
			text := fmt.Sprintf("it waits until class %s has settled, and well: %s", class, d.names(open))
			return Decision{Reason: Reason{Code: CodeAfter, Text: text, Nodes: open, Command: command}}, true
		}
	}
	return Decision{}, false
}

// inWindow makes it wait for a window.
func (d *decision) inWindow() (Decision, bool) {
	if len(d.class.Windows) == 0 || d.now || d.order.Back() {
		return Decision{}, false
	}
	open, next, err := Open(d.class.Windows, d.Now, d.Zone)
	if open {
		return Decision{}, false
	}
	if err != nil && next.IsZero() {
		return wait(CodeWindow, fmt.Sprintf("its window cannot be found: %v", err), d.nowCommand()), true
	}
	text := fmt.Sprintf("it waits for its window, which opens %s", next.Format("Mon 2006-01-02 15:04 MST"))
	if err != nil {
		text += fmt.Sprintf("; of others that cannot be said: %v", err)
	}
	return Decision{Reason: Reason{Code: CodeWindow, Text: text, Command: d.nowCommand(), Retry: next.Sub(d.Now)}}, true
}

func (d *decision) nowCommand() string {
	return fmt.Sprintf("moult now --release %d %s", d.order.Release, d.name(d.Self))
}

// Open reports whether one of the windows is open, and otherwise when the next one opens,
// in its own time zone. The error is about those whose zone is not known; where all are,
// next is zero.
func Open(windows []bundle.Window, now time.Time, zone func(string) (*time.Location, error)) (open bool, next time.Time, err error) {
	for _, w := range windows {
		loc, e := zone(w.Timezone)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("time zone %s is not known on this machine: %w", w.Timezone, e))
			continue
		}
		isOpen, opens := openIn(w, now.In(loc))
		if isOpen {
			return true, time.Time{}, nil
		}
		if next.IsZero() || opens.Before(next) {
			next = opens
		}
	}
	return false, next, err
}

// openIn looks at the openings of a window from so long before now as it may be open to
// a week after now: one more day on either side, since days are not all of one length.
func openIn(w bundle.Window, now time.Time) (open bool, next time.Time) {
	const day = 24 * time.Hour
	back := int(time.Duration(w.Length)/day) + 2
	for i := -back; i <= 8; i++ {
		date := time.Date(now.Year(), now.Month(), now.Day()+i, 12, 0, 0, 0, time.UTC)
		if !w.On(date.Weekday()) {
			continue
		}
		opens := startOn(date, w.Start, now.Location())
		switch {
		case now.Before(opens):
			return false, opens
		case now.Before(opens.Add(time.Duration(w.Length))):
			return true, time.Time{}
		}
	}
	return false, now.Add(day) // not reached: every window opens once a week
}

// startOn returns when the clocks of a place show a time on a date. Where they show it twice,
// it is the first time; where they pass over it, it is what they would show had they not been
// put forward (RFC 5545, 3.3.5).
func startOn(date time.Time, start string, loc *time.Location) time.Time {
	clock, _ := time.Parse("15:04", start) // valid: the order was
	wall := time.Date(date.Year(), date.Month(), date.Day(), clock.Hour(), clock.Minute(), 0, 0, time.UTC)
	// What the clocks are ahead of UTC a day before. Put back since, they show it there first;
	// put forward, they would have shown it there, or show it a little later by what holds then.
	_, before := wall.Add(-24 * time.Hour).In(loc).Zone()
	at := wall.Add(-time.Duration(before) * time.Second).In(loc)
	if at.Hour() == wall.Hour() && at.Minute() == wall.Minute() {
		return at
	}
	_, after := at.Zone()
	if later := wall.Add(-time.Duration(after) * time.Second).In(loc); later.Hour() == wall.Hour() && later.Minute() == wall.Minute() {
		return later
	}
	return at
}

// WindowText says when a window is open.
func WindowText(w bundle.Window) string {
	days := "every day"
	if len(w.Days) > 0 {
		days = strings.Join(w.Days, ", ")
	}
	return fmt.Sprintf("%s from %s for %s, %s", days, w.Start, w.Length, w.Timezone)
}

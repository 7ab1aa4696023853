package status

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/agent/control"
	"moult/cmd/moult/internal/screen"
)

// local is what the agent that was asked says of its own node: the ways of calls, and the
// simulation objects.
func (o Options) local(l control.Local) (lines []string) {
	for _, line := range waysInWords(l) {
		lines = append(lines, o.wrap(line)...)
	}
	if len(l.Objects) == 0 {
		return lines
	}
	lines = append(lines, o.wrap(fmt.Sprintf("simulation objects of %s, which runs version %d", l.Name, l.Native))...)
	t := screen.Table{Columns: []screen.Column{
		{Head: "CALLERS"}, {Head: "OBJECT"}, {Head: "KIND", Drop: 5}, {Head: "WHERE", Drop: 4}, {Head: "STATE"}, {Head: "CALLS"},
		{Head: "DENIED"}, {Head: "ERRORS"}, {Head: "MEAN", Drop: 3}, {Head: "OPEN", Drop: 2}, {Head: "LAST", Drop: 1},
	}}
	for _, ob := range l.Objects {
		where := ob.Where
		if ob.PID != 0 {
			where = fmt.Sprintf("%s %d", where, ob.PID)
		}
		c := ob.Counted
		mean, last := "-", "-"
		if c.Calls > 0 {
			mean = screen.Roundly(time.Duration(c.Mean))
		}
		if !c.Last.IsZero() {
			last = c.Last.Local().Format(time.DateTime)
		}
		t.Rows = append(t.Rows, []string{
			fmt.Sprintf("%d→%d", ob.Callers, ob.Calls), fmt.Sprintf("%s of %d", ob.Side, ob.Release), ob.Kind, where, o.paint(ob.State, ob.State),
			fmt.Sprint(c.Calls), fmt.Sprint(c.Denied), fmt.Sprint(c.Errors), mean, fmt.Sprint(c.Open), last,
		})
	}
	rows, _ := t.Lines(o.Width)
	lines = append(lines, rows...)
	for _, ob := range l.Objects {
		for _, line := range troubleInWords(ob) {
			lines = append(lines, o.wrap(fmt.Sprintf("%d→%d: %s", ob.Callers, ob.Calls, line))...)
		}
	}
	return lines
}

// waysInWords tells of every service, and of the node's own calls, by what way they
// go, and why by no better one, unless it is as asked for, or the best.
func waysInWords(l control.Local) []string {
	kind := func(w control.Way) string {
		if w.Why == "" {
			return w.Kind
		}
		return w.Kind + ": " + screen.Short(w.Why)
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(l.Services)) {
		lines = append(lines, fmt.Sprintf("callers reach service %s of %s by %s", name, l.Name, kind(l.Services[name].Attach)))
	}
	if l.Egress.Kind != "" {
		lines = append(lines, fmt.Sprintf("calls of %s go out by %s", l.Name, kind(l.Egress)))
	}
	return lines
}

// troubleInWords tells what an operator should know of an object beyond its line.
func troubleInWords(o control.ObjectStatus) []string {
	var lines []string
	if o.Problem != "" {
		lines = append(lines, "it does not answer: "+screen.Short(o.Problem))
	}
	if o.Restarts > 0 {
		lines = append(lines, fmt.Sprintf("its process has been started again %d times", o.Restarts))
	}
	if s := o.Observation; s != nil {
		line := fmt.Sprintf("it was told of %d calls of version %d; %d wait, %d were missed", s.Told, o.Calls, s.Waiting, s.Missed)
		if !s.Whole {
			line += "; it is not told of every call yet"
		}
		if s.Problem != "" {
			line += "; it cannot be told: " + screen.Short(s.Problem)
		}
		lines = append(lines, line)
	}
	return lines
}

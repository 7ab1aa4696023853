package main

import (
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"moult/agent/control"
	"moult/cmd/moult/internal/screen"
)

// local prints what the agent that was asked says of its own node: the ways of
// calls, and the simulation objects.
func (p statusPrinter) local(l control.Local) error {
	for _, line := range waysInWords(l) {
		fmt.Fprintln(p.w, line)
	}
	if len(l.Objects) == 0 {
		return nil
	}
	fmt.Fprintf(p.w, "simulation objects of %s, which runs version %d\n", l.Name, l.Native)
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CALLERS\tOBJECT\tKIND\tWHERE\tSTATE\tCALLS\tDENIED\tERRORS\tMEAN\tOPEN\tLAST")
	for _, o := range l.Objects {
		where := o.Where
		if o.PID != 0 {
			where = fmt.Sprintf("%s %d", where, o.PID)
		}
		c := o.Counted
		mean, last := "-", "-"
		if c.Calls > 0 {
			mean = screen.Roundly(time.Duration(c.Mean))
		}
		if !c.Last.IsZero() {
			last = c.Last.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%d→%d\t%s of %d\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%s\n",
			o.Callers, o.Calls, o.Side, o.Release, o.Kind, where, o.State, c.Calls, c.Denied, c.Errors, mean, c.Open, last)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, o := range l.Objects {
		for _, line := range troubleInWords(o) {
			fmt.Fprintf(p.w, "%d→%d: %s\n", o.Callers, o.Calls, line)
		}
	}
	return nil
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

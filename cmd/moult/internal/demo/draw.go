package demo

import (
	"fmt"
	"strings"
	"time"

	"moult/agent/control"
)

// draw shows the cluster: in place on a terminal, else one line now and then.
func (d *demo) draw(s control.Status) {
	var b strings.Builder
	if d.Live && d.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", d.drawn)
	}
	lines := 0
	if d.Live {
		for _, n := range s.Nodes {
			fmt.Fprintf(&b, "  %-4s version %d  %-14s %.100s\n", n.Name, n.Version, n.Phase, strings.Join(strings.Fields(n.Reason), " "))
			lines++
		}
	}
	c := s.Classes["kv"]
	line := fmt.Sprintf("  %d of %d settled, %d down", c.Settled, c.Total, c.Down)
	for _, l := range d.loads {
		snap := l.Snapshot()
		line += fmt.Sprintf("; v%d clients: %d ok, %d failed, %d denied, slowest %v",
			snap.Version, snap.OK, snap.Failed, snap.Denied, snap.MaxLatency.Round(time.Millisecond))
	}
	if !d.Live && c.Settled == d.drawn-1 {
		return
	}
	fmt.Fprintln(&b, line)
	lines++
	if !d.Live {
		lines = c.Settled + 1 // remembered, to print a line only when something has settled
	}
	d.drawn = lines
	fmt.Fprint(d.Talk, b.String())
}

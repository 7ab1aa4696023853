// Package status is a cluster as people see it: in lines for a file or a pipe, and fitted to a
// terminal's columns and rows. It decides nothing, and asks nobody.
package status

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"moult/agent/control"
	"moult/cmd/moult/internal/screen"
	"moult/gossip/view"
)

// Options say what for.
type Options struct {
	// Width and Height are a terminal's columns and rows; 0 where there is none: then lines
	// are as long as they are, all nodes are there, and long reasons end with "...".
	Width, Height int
	// All lists every node, also where they are more than the rows.
	All   bool
	Color bool
	Now   time.Time // by which it is told how long something has lasted
}

// Lines shows a status.
func Lines(s control.Status, o Options) []string {
	lines := o.head(s)
	if o.Height > 0 && !o.All && len(lines)+1+len(s.Nodes) > o.Height {
		lines = append(lines, o.summary(s.Nodes, o.Height-len(lines))...)
	} else {
		lines = append(lines, o.nodes(s.Nodes)...)
	}
	return append(lines, o.local(s.Local)...)
}

// head is what is said of the cluster.
func (o Options) head(s control.Status) (lines []string) {
	say := func(text string) { lines = append(lines, o.wrap(text)...) }
	r := s.Release
	if r.State == control.StateNone {
		say(fmt.Sprintf("cluster %s  no release yet", s.Cluster.Short()))
	} else {
		line := fmt.Sprintf("cluster %s  %s  %s", s.Cluster.Short(), ReleaseWords(r), o.paint(r.State, r.State))
		if r.Reason != "" {
			line += ": " + screen.Line(r.Reason)
		}
		say(line)
	}
	for _, class := range slices.Sorted(maps.Keys(s.Classes)) {
		c := s.Classes[class]
		say(fmt.Sprintf("class %s  %d of %d settled, %d not well, %d down (budget %d), %d waiting, %d held",
			class, c.Settled, c.Total, c.Unwell, c.Down, c.Budget, c.Waiting, c.Held))
	}
	if a := s.Release.Agents; a != nil {
		say(screen.Line(a.Words))
	}
	for _, a := range s.Alarms {
		say(o.paint(alarm, alarm) + " " + screen.Line(a))
	}
	return lines
}

func (o Options) wrap(text string) []string {
	return strings.Split(screen.Wrap(text, o.Width), "\n")
}

// Columns of the table of nodes.
const (
	colNode = iota
	colID
	colClass
	colVersion
	colPhase
	colHealth
	colSeen
	colReason
)

// Brief is the table of nodes with what changes most: their versions, phases and reasons.
func Brief(nodes []control.NodeStatus, o Options) []string {
	t := screen.Table{Columns: []screen.Column{{Head: "NODE", Least: leastName}, {Head: "VERSION", Least: 7}, {Head: "PHASE", Least: 8}, {Head: "REASON", Least: 20}}}
	for _, n := range nodes {
		t.Rows = append(t.Rows, []string{n.Name, version(n), o.paint(n.Phase, n.Phase), screen.Line(n.Reason)})
	}
	return o.whole(t)
}

// nodes is a line per node.
func (o Options) nodes(nodes []control.NodeStatus) []string {
	t := screen.Table{Columns: []screen.Column{
		colNode: {Head: "NODE", Least: leastName}, colID: {Head: "ID", Drop: 4}, colClass: {Head: "CLASS", Least: 8},
		colVersion: {Head: "VERSION", Least: 7}, colPhase: {Head: "PHASE", Least: 8},
		colHealth: {Head: "HEALTH", Least: 6}, colSeen: {Head: "SEEN", Least: 6}, colReason: {Head: "REASON", Least: 20},
	}}
	for _, n := range nodes {
		t.Rows = append(t.Rows, o.node(n))
	}
	// What says the same of all nodes goes first.
	for i, col := range []int{colSeen, colHealth, colClass} {
		if !slices.ContainsFunc(t.Rows, func(row []string) bool { return row[col] != t.Rows[0][col] || col == colSeen && row[col] != "yes" }) {
			t.Columns[col].Drop = i + 1
		}
	}
	return o.whole(t)
}

// whole lays out a table of nodes, whose first column is their names, and tells below it
// whole what is cut in its last column.
func (o Options) whole(t screen.Table) []string {
	lines, cut := t.Lines(o.Width)
	last := len(t.Columns) - 1
	var reasons []string // in the order of their first nodes
	by := map[string][]string{}
	for _, i := range cut {
		row := t.Rows[i]
		why := row[last]
		if by[why] == nil {
			reasons = append(reasons, why)
		}
		by[why] = append(by[why], row[0])
	}
	for _, why := range reasons {
		names := by[why]
		if len(names) > maxNames {
			names = append(names[:maxNames-1:maxNames-1], fmt.Sprintf("%d more", len(names)-maxNames+1))
		}
		lines = append(lines, o.wrap(strings.Join(names, ", ")+": "+why)...)
	}
	return lines
}

// node is a row of that table.
func (o Options) node(n control.NodeStatus) []string {
	seen := "yes"
	if !n.Reachable {
		seen = "no"
		if !n.Away.IsZero() {
			seen = "no, for " + screen.For(o.Now.Sub(n.Away))
		}
	}
	if n.Standing != "" {
		seen += ", " + n.Standing
	}
	phase := n.Phase
	if n.Progress > 0 && n.Progress < 1 {
		phase += fmt.Sprintf(" %.0f%%", 100*n.Progress)
	}
	if !n.Since.IsZero() && !restful(n.Phase) {
		phase += ", " + screen.For(o.Now.Sub(n.Since))
	}
	reason := screen.Line(n.Reason)
	if o.Width == 0 {
		reason = screen.Short(n.Reason)
	}
	return []string{n.Name, n.ID.Short(), string(n.Class), version(n), o.paint(n.Phase, phase), o.paint(n.Health, cmp.Or(n.Health, "-")), seen, reason}
}

func version(n control.NodeStatus) string {
	v := fmt.Sprint(n.Version)
	if n.Target != 0 && n.Target != n.Version {
		v = fmt.Sprintf("%d→%d", n.Version, n.Target)
	}
	if n.Runs != 0 {
		v += fmt.Sprintf(" (runs %d)", n.Runs)
	}
	return v
}

// restful reports that nobody asks for how long a node is in a phase.
func restful(phase string) bool {
	return phase == string(view.Current) || phase == string(view.Settled)
}

// summary counts the nodes of each class in each phase, and lists those that need a look: as
// many as there is room for.
func (o Options) summary(nodes []control.NodeStatus, room int) []string {
	type group struct{ class, phase, version string }
	counts := map[group]int{}
	var look []control.NodeStatus
	for _, n := range nodes {
		counts[group{string(n.Class), n.Phase, version(n)}]++
		if needsLook(n) {
			look = append(look, n)
		}
	}
	phases := view.Phases()
	groups := slices.SortedFunc(maps.Keys(counts), func(a, b group) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.version, b.version),
			cmp.Compare(slices.Index(phases, view.Phase(a.phase)), slices.Index(phases, view.Phase(b.phase))))
	})
	t := screen.Table{Columns: []screen.Column{{Head: "CLASS", Least: 8}, {Head: "VERSION"}, {Head: "PHASE"}, {Head: "NODES"}}}
	for _, g := range groups {
		t.Rows = append(t.Rows, []string{g.class, g.version, o.paint(g.phase, g.phase), fmt.Sprint(counts[g])})
	}
	lines, _ := t.Lines(o.Width)
	const all = "`moult status --all` lists every node"
	if len(look) == 0 {
		return append(lines, o.wrap(fmt.Sprintf("none of the %d nodes needs a look; %s", len(nodes), all))...)
	}
	lines = append(lines, o.wrap(fmt.Sprintf("%d of the %d nodes need a look; %s", len(look), len(nodes), all))...)
	// Half of what is left is for reasons that do not fit their column.
	if most := max(leastListed, (room-len(lines))/2); len(look) > most {
		left := len(look) - most
		return append(append(lines, o.nodes(look[:most])...), fmt.Sprintf("and %d more", left))
	}
	return append(lines, o.nodes(look)...)
}

// needsLook reports a node that somebody should look after: one that counts, and is held, goes
// back, is not well, runs what it should not, or is away.
func needsLook(n control.NodeStatus) bool {
	switch {
	case n.Standing != "":
		return false
	case !n.Reachable, n.Runs != 0, n.Phase == string(view.Held), n.Phase == string(view.RollingBack):
		return true
	}
	return view.Health{State: view.HealthState(n.Health)}.Unwell()
}

// Words that are painted beside states, phases and kinds of health.
const alarm = "alarm:"

// paint gives a text the colour of a word: green is well, yellow on its way, cyan down on
// purpose, red wrong.
func (o Options) paint(word, text string) string {
	if !o.Color {
		return text
	}
	var color ansi.BasicColor
	switch word {
	case control.StateComplete, string(view.Settled), control.ObjectRunning:
		color = ansi.Green
	case control.StateHeld, control.StateAborted, control.ObjectBroken, alarm,
		string(view.HealthNotReady), string(view.HealthRestarting), string(view.HealthFailing):
		color = ansi.Red
	case string(view.Draining), string(view.Transforming), string(view.Starting), string(view.Probing):
		color = ansi.Cyan
	case string(view.Current), string(view.HealthWell), string(view.HealthUnknown), "":
		return text
	default:
		color = ansi.Yellow
	}
	return ansi.NewStyle().ForegroundColor(color).Styled(text)
}

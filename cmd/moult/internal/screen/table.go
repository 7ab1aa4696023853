package screen

import (
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// Column is one of a Table.
type Column struct {
	Head string
	// Least is to how few letters its cells may be cut where there is no room; 0: they are whole.
	Least int
	// Drop says that the column may be left out where there is no room: 1 first, then 2;
	// never with 0.
	Drop int
}

// Table is rows of text in columns.
type Table struct {
	Columns []Column
	Rows    [][]string // a cell for each column; it may have colours
}

const gap = 2 // between columns

// Lines lays the table out: its heads, then its rows, none longer than width; 0 is no bound.
// cut lists the rows whose last cell is not whole.
func (t Table) Lines(width int) (lines []string, cut []int) {
	widths := t.fit(width)
	heads := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		heads[i] = c.Head
	}
	lines = append(lines, line(heads, widths, width))
	for i, row := range t.Rows {
		lines = append(lines, line(row, widths, width))
		last := len(row) - 1
		room := widths[last]
		if width > 0 {
			room = min(room, width-total(widths)+widths[last]) // where even the least is too much
		}
		if ansi.StringWidth(row[last]) > room {
			cut = append(cut, i)
		}
	}
	return lines, cut
}

// fit decides how wide each column is; -1 is left out.
func (t Table) fit(width int) []int {
	widths := make([]int, len(t.Columns))
	for i, c := range t.Columns {
		widths[i] = ansi.StringWidth(c.Head)
		for _, row := range t.Rows {
			widths[i] = max(widths[i], ansi.StringWidth(row[i]))
		}
	}
	if width <= 0 || total(widths) <= width {
		return widths
	}
	least := slices.Clone(widths)
	for i, c := range t.Columns {
		if c.Least > 0 {
			least[i] = min(widths[i], max(c.Least, ansi.StringWidth(c.Head)))
		}
	}
	// The last column has most to say: others go before it is cut to its least.
	for drop := 1; drop <= len(t.Columns); drop++ {
		last := len(widths) - 1
		if total(append(slices.Clone(widths[:last]), least[last])) <= width {
			break
		}
		if i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Drop == drop }); i >= 0 {
			widths[i], least[i] = -1, -1
		}
	}
	for i := len(widths) - 1; i >= 0; i-- {
		if over := total(widths) - width; over > 0 {
			widths[i] = max(least[i], widths[i]-over)
		}
	}
	return widths
}

func total(widths []int) (n int) {
	for _, w := range widths {
		if w >= 0 {
			n += w + gap
		}
	}
	return max(0, n-gap)
}

func line(cells []string, widths []int, width int) string {
	var b strings.Builder
	room := 0 // that is still to be written before the next cell
	for i, cell := range cells {
		if widths[i] < 0 {
			continue
		}
		cell = Cut(cell, widths[i])
		b.WriteString(strings.Repeat(" ", room))
		b.WriteString(cell)
		room = widths[i] - ansi.StringWidth(cell) + gap
	}
	if width <= 0 {
		return b.String()
	}
	return Cut(strings.TrimRight(b.String(), " "), width)
}

// Cut is a line that is no longer than width, with an ellipsis where something is missing.
func Cut(s string, width int) string { return ansi.Truncate(s, width, "…") }

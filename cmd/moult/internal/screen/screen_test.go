package screen

import (
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"pgregory.net/rapid"
)

// What is wrapped says the same, in lines that fit.
func TestWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.StringMatching(`[a-zé→-]{1,30}[ ,;\n]{1,3}`)).Draw(t, "text"), "")
		width := rapid.IntRange(8, 90).Draw(t, "width")
		wrapped := Wrap(text, width)
		for line := range strings.SplitSeq(wrapped, "\n") {
			if ansi.StringWidth(line) > width {
				t.Fatalf("%q is longer than %d", line, width)
			}
		}
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
		if squeeze(wrapped) != squeeze(text) {
			t.Fatalf("%q became %q", text, wrapped)
		}
	})
	if got := Wrap("  denied 2 times: later", 20); got != "  denied 2 times:\n    later" {
		t.Errorf("%q", got)
	}
	if got := Wrap("as it is", 0); got != "as it is" {
		t.Errorf("%q", got)
	}
}

// Columns go and are cut where there is no room, in their order; what is cut last is the
// last one, and that is told.
func TestTable(t *testing.T) {
	table := Table{
		Columns: []Column{{Head: "NODE", Least: 6}, {Head: "ID", Drop: 2}, {Head: "SEEN", Drop: 1}, {Head: "REASON", Least: 12}},
		Rows:    [][]string{{"n1", "0123456789ab", "yes", "it waits for n2, which is down"}, {"\x1b[31mnode-three\x1b[m", "0123456789ab", "yes", ""}},
	}
	for _, c := range []struct {
		width int
		want  string
		cut   int // rows
	}{
		{0, "NODE        ID            SEEN  REASON\nn1          0123456789ab  yes   it waits for n2, which is down\nnode-three  0123456789ab  yes   \n", 0},
		{62, "NODE        ID            SEEN  REASON\nn1          0123456789ab  yes   it waits for n2, which is down\nnode-three  0123456789ab  yes\n", 0},
		{61, "NODE        ID            SEEN  REASON\nn1          0123456789ab  yes   it waits for n2, which is do…\nnode-three  0123456789ab  yes\n", 1},
		{40, "NODE        ID            REASON\nn1          0123456789ab  it waits for …\nnode-three  0123456789ab\n", 1},
		{30, "NODE        REASON\nn1          it waits for n2, …\nnode-three\n", 1},
		{20, "NODE    REASON\nn1      it waits fo…\nnode-…\n", 1},
		{10, "NODE    R…\nn1      i…\nnode-…\n", 1},
	} {
		lines, cut := table.Lines(c.width)
		if got := ansi.Strip(strings.Join(lines, "\n") + "\n"); got != c.want || len(cut) != c.cut {
			t.Errorf("%d columns, %v cut:\n%s\nwant\n%s", c.width, cut, got, c.want)
		}
	}
}

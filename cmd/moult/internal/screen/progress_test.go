package screen

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// A line says how much is done, and after a while how fast that goes and how long the rest will
// take; the bar has what is left of the width, or is not there.
func TestTransferred(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		done, total, moved int64
		took               time.Duration
		width              int
		want               string
	}{
		{0, 10 * mib, 0, 0, 60, "packing kv  ░░░░░░░░░░░░░░░░░░░░░    0%  0 bytes of 10.0 MiB"},
		{5 * mib, 10 * mib, 5 * mib, time.Second, 60, "packing kv   50%  5.0 MiB of 10.0 MiB  5.0 MiB/s  1s left"},
		{5 * mib, 10 * mib, mib, 2 * time.Second, 80, "packing kv  █████████░░░░░░░░░   50%  5.0 MiB of 10.0 MiB  512.0 KiB/s  10s left"},
		{10 * mib, 10 * mib, 10 * mib, 2 * time.Second, 79, "packing kv  ████████████████████████████  100%  10.0 MiB of 10.0 MiB  5.0 MiB/s"},
		{11 * mib, 10 * mib, 0, 0, 200, "packing kv  " + strings.Repeat("█", longestBar) + "  100%  11.0 MiB of 10.0 MiB"},
		{5 * mib, 0, 5 * mib, time.Second, 80, "packing kv  5.0 MiB  5.0 MiB/s"},
	} {
		got := transferred("packing kv", c.done, c.total, c.moved, c.took, c.width)
		if got != c.want || ansi.StringWidth(got) > c.width {
			t.Errorf("%+v:\n%q, %d columns", c, got, ansi.StringWidth(got))
		}
	}
}

// Each thing that is done is seen from its beginning to its end, and what comes after Done is
// not, nor anything where there is no terminal.
func TestTransfer(t *testing.T) {
	var out bytes.Buffer
	transfer := &Transfer{on: &Progress{To: &out, Width: func() int { return 80 }}}
	transfer.Show("packing", 0, 100)
	transfer.Show("packing", 100, 100)
	transfer.Show("checking", 1, 100)
	transfer.Done()
	transfer.Show("late", 1, 100)
	transfer.Done()
	for _, want := range []string{"packing  ░", "100%  100 bytes of 100 bytes", "checking  ░"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %q", want, out.String())
		}
	}
	if !strings.HasSuffix(out.String(), "\r"+ansi.EraseLineRight) || strings.Contains(out.String(), "late") {
		t.Errorf("in the end %q", out.String())
	}
	out.Reset()
	none := TransferOn(&out)
	none.Show("packing", 0, 100)
	none.Done()
	if out.Len() > 0 {
		t.Errorf("no terminal is shown %q", out.String())
	}
}

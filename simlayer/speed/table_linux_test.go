package speed

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// options say how long it all takes.
type options struct {
	rounds  int
	cell    time.Duration
	mapped  int // rounds of the objects by themselves
	idle    int // idle connections
	profile string
}

var (
	quick   = flag.Bool("benchtable.quick", false, "measure so shortly that only the machinery is shown to work")
	rounds  = flag.Int("benchtable.rounds", 16, "how often each cell is measured")
	cellFor = flag.Duration("benchtable.cell", 300*time.Millisecond, "how long each cell is measured at a time")
	into    = flag.String("benchtable.into", "", "the Markdown file whose table is to be replaced by this one, between its marks")
	profile = flag.String("benchtable.profile", "", "the folder for CPU profiles of the agents' processes")
)

var quickly = options{rounds: 1, cell: 40 * time.Millisecond, mapped: 3, idle: 200}

// BenchmarkTable prints the speed table, in Markdown.
func BenchmarkTable(b *testing.B) {
	o := options{rounds: *rounds, cell: *cellFor, mapped: 300, idle: 5000, profile: *profile}
	if *quick {
		o = quickly
		o.profile = *profile
	}
	b.ReportMetric(0, "ns/op")
	for range b.N {
		var text bytes.Buffer
		measureAll(b, o).write(&text)
		if _, err := os.Stdout.Write(text.Bytes()); err != nil {
			b.Fatal(err)
		}
		if *into != "" {
			if err := replaceTable(*into, text.String()); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// What stands between these lines of a document is the table.
const (
	tableBegins = "<!-- make bench: from here -->\n"
	tableEnds   = "<!-- make bench: to here -->\n"
)

// replaceTable puts a new table into a document.
func replaceTable(path, table string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(data), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !ok || !ends {
		return fmt.Errorf("%s has no %q and %q after it", path, tableBegins, tableEnds)
	}
	return os.WriteFile(path, []byte(before+tableBegins+table+"\n"+tableEnds+after), 0o644)
}

// report is the whole table.
type report struct {
	same, changed *block
	mapped        []*mapper
	idle, conns   int // bytes for each of so many
	left          []string
	options       options
}

func measureAll(t testing.TB, o options) *report {
	r := build(t, o)
	r.same()
	out := &report{options: o, same: r.run(r.ways, getShapes), changed: r.run(r.json, putShapes)}
	out.idle, out.conns = r.idle(o.idle)
	mapped, left := mappings(t, o.mapped)
	out.mapped, out.left = mapped, append(r.left, left...)
	return out
}

// measures are the columns of each load.
var measures = []struct {
	title string
	of    func(*cell) []float64
	unit  string
	more  bool // is better
}{
	{"Calls per second", rpsOf, "/s", true},
	{"Median latency", func(c *cell) []float64 { return c.p50 }, " µs", false},
	{"CPU of the servers for a call", cpuOf, " µs", false},
}

func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", machine())
	fmt.Fprintf(w, "\n%d rounds of %v for each cell: medians of the rounds' ratios to direct, which has its\nown units. Of the noise, what lies between a tenth and nine tenths of the rounds.\n", r.options.rounds, r.options.cell)
	fmt.Fprint(w, "\n### Calls that nobody changes\n")
	r.same.write(w)
	fmt.Fprint(w, "\n### Calls of another version: PUT of 1 KiB of JSON, a field renamed there and back\n")
	r.changed.write(w)
	r.writeMapped(w)
	fmt.Fprintf(w, "\n### Memory\n\nAn idle relayed connection: %.1f KiB (heap and stacks, of %d connections).\n", float64(r.idle)/1024, r.conns)
	fmt.Fprint(w, "\n### Goals\n\n| goal | measured | |\n|---|---|---|\n")
	for _, g := range r.goals() {
		fmt.Fprintf(w, "| %s | %s | %s |\n", g.goal, g.figure, g.verdict())
	}
	for _, l := range r.left {
		fmt.Fprintf(w, "\n%s\n", l)
	}
}

func (b *block) write(w io.Writer) {
	for _, m := range measures {
		fmt.Fprintf(w, "\n| %s |", m.title)
		for _, s := range b.shapes {
			fmt.Fprintf(w, " %s |", s.name)
		}
		fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---:|", len(b.shapes)))
		for _, name := range b.ways {
			fmt.Fprintf(w, "| %s |", name)
			for i := range b.shapes {
				fmt.Fprintf(w, " %s |", b.text(name, i, m.of, m.unit))
			}
			fmt.Fprintln(w)
		}
	}
}

// text is one figure: what direct calls have in units, the others against these,
// and of the noise how far it goes.
func (b *block) text(name string, i int, of func(*cell) []float64, unit string) string {
	own := of(b.cells[name][i])
	if name == wayDirect {
		return fmt.Sprintf("%.0f%s", median(own), unit)
	}
	all := ratios(own, of(b.cells[wayDirect][i]))
	if name == wayAgain {
		low, high := spread(all)
		return fmt.Sprintf("%.2f (%.2f–%.2f)", median(all), low, high)
	}
	return fmt.Sprintf("%.2f", median(all))
}

func (r *report) writeMapped(w io.Writer) {
	fmt.Fprint(w, "\n### The objects by themselves, without any network\n\n")
	fmt.Fprint(w, "| a call, mapped there and back | µs | without the call itself | of `rules` | one mapping, µs |\n|---|---:|---:|---:|---:|\n")
	for _, m := range r.mapped {
		own := r.own(m.name)
		fmt.Fprintf(w, "| %s | %.1f | %.1f | %.2f | %.1f |\n", m.name, median(m.times), own, own/r.own(mapRules), own/2)
	}
}

// own is what an object adds to a call, in µs; 0 where it was not measured.
func (r *report) own(name string) float64 {
	m, none := r.mapping(name), r.mapping(mapNone)
	if m == nil || none == nil {
		return 0
	}
	return median(m.times) - median(none.times)
}

// mapping is what was measured of an object by itself; nil where it was not.
func (r *report) mapping(name string) *mapper {
	for _, m := range r.mapped {
		if m.name == name {
			return m
		}
	}
	return nil
}

// machine says where this runs.
func machine() string {
	model := "an unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(data); m != nil {
			model = string(m[1])
		}
	}
	var u unix.Utsname
	_ = unix.Uname(&u) // an empty release says it too
	text := fmt.Sprintf("%d cores (%s), Linux %s, %s", runtime.NumCPU(), model, bytes.TrimRight(u.Release[:], "\x00"), runtime.Version())
	for _, p := range []struct{ program, flag, form string }{
		{"haproxy", "-v", `HAProxy version (\d+\.\d+\.\d+)`}, {"nginx", "-v", `nginx/(\S+)`},
	} {
		out, err := exec.Command(p.program, p.flag).CombinedOutput()
		if m := regexp.MustCompile(p.form).FindSubmatch(out); err == nil && m != nil {
			text += fmt.Sprintf(", %s %s", p.program, m[1])
		}
	}
	return text + "."
}

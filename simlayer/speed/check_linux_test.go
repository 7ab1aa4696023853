package speed

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTable measures everything for an instant: the figures mean nothing, but all
// are there, or there is a reason.
func TestTable(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	r := measureAll(t, quickly)
	for _, b := range []*block{r.same, r.changed} {
		for _, name := range b.ways {
			for i, s := range b.shapes {
				for _, m := range measures {
					if v := m.of(b.cells[name][i]); len(v) != quickly.rounds || v[0] <= 0 {
						t.Errorf("%s, %s, %s: %v", name, s.name, m.title, v)
					}
				}
			}
		}
	}
	for _, name := range []string{wayInherit, waySteer, wayConnect, wayHAProxy, wayHAProxySplice, wayHAProxyUnix, wayNginx, wayNginxUnix, wayHostC, mapC} {
		told := strings.Contains(strings.Join(r.left, "\n"), name+" is not measured: ")
		measured := r.same.cells[name] != nil || r.changed.cells[name] != nil || name == mapC && r.mapping(mapC) != nil
		if told == measured {
			t.Errorf("%s: measured is %t, left out with a reason is %t", name, measured, told)
		}
	}
	for _, l := range r.left {
		t.Log(l)
	}
	if r.conns != quickly.idle || r.idle < 1<<10 {
		t.Errorf("%d bytes for each of %d idle connections: nothing was measured", r.idle, r.conns)
	}
	var out bytes.Buffer
	r.write(&out)
	for _, want := range []string{wayDirect, wayRules, wayHostGo, "### Goals", "| met |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
}

// planted is a report in which everything is as direct is, but for what change
// does to it.
func planted(change func(r *report)) *report {
	fill := func(shapes []shape, ways ...string) *block {
		b := &block{ways: ways, shapes: shapes, cells: map[string][]*cell{}}
		for _, w := range ways {
			for range shapes {
				c := &cell{rps: []float64{1000, 1000, 1000}, cpu: []float64{10, 10, 10}, p50: []float64{100, 100, 100}}
				if w == wayAgain {
					c.rps, c.cpu, c.p50 = []float64{1000, 950, 1050}, []float64{10, 9.5, 10.5}, []float64{100, 95, 105}
				}
				b.cells[w] = append(b.cells[w], c)
			}
		}
		return b
	}
	r := &report{
		same:    fill(getShapes, wayDirect, wayAgain, wayInherit, waySteer, wayConnect, wayRelayUnix, wayRelayTCP, wayHAProxy, wayHAProxyUnix, wayNginx, wayNginxUnix),
		changed: fill(putShapes, wayDirect, wayAgain, wayRelayUnix, wayProxy, wayRules, wayHostRules, wayHostC),
		mapped:  []*mapper{{name: mapNone, times: []float64{5}}, {name: mapRules, times: []float64{15}}, {name: mapC, times: []float64{20}}},
		idle:    8 << 10, conns: 100,
	}
	for _, c := range r.changed.cells[wayProxy] {
		c.rps = []float64{300, 300, 300}
	}
	change(r)
	return r
}

// TestGoals: what misses its goal is said to.
func TestGoals(t *testing.T) {
	for _, c := range []struct {
		name, goal, verdict string
		change              func(r *report)
	}{
		{"nothing is wrong", "", "met", func(*report) {}},
		{"slower than the noise", waySteer, "missed", func(r *report) { r.same.cells[waySteer][1].rps = []float64{940, 940, 940} }},
		{"slower within the noise", waySteer, "met", func(r *report) { r.same.cells[waySteer][1].rps = []float64{960, 960, 960} }},
		{"faster than the noise", waySteer, "met", func(r *report) { r.same.cells[waySteer][1].rps = []float64{2000, 2000, 2000} }},
		{"later than the noise", wayConnect, "missed", func(r *report) { r.same.cells[wayConnect][0].p50 = []float64{110, 110, 110} }},
		{"more CPU than the noise", wayInherit, "missed", func(r *report) { r.same.cells[wayInherit][3].cpu = []float64{11, 11, 11} }},
		{"the noise of one round", wayInherit, "met", func(r *report) { r.same.cells[wayInherit][3].cpu = []float64{10, 20, 10} }},
		{"not measured", wayConnect, "not measured", func(r *report) { delete(r.same.cells, wayConnect) }},
		{"another relay is faster", "relay`, unix socket to the node: at least 1.00", "missed", func(r *report) { r.same.cells[wayNginxUnix][2].rps = []float64{1100, 1100, 1100} }},
		{"another relay is a little faster", "relay`, unix socket to the node: at least 1.00", "missed", func(r *report) { r.same.cells[wayNginxUnix][2].rps = []float64{1010, 1010, 1010} }},
		{"another relay is faster but once", "relay`, unix socket to the node: at least 1.00", "met", func(r *report) { r.same.cells[wayNginxUnix][2].rps = []float64{1010, 1010, 1000} }},
		{"with another socket it does not count", "relay`, unix socket to the node: at least 1.00", "met", func(r *report) { r.same.cells[wayNginx][2].rps = []float64{1100, 1100, 1100} }},
		{"with small bodies it may be faster", "relay`, unix socket to the node: at least 0.85", "met", func(r *report) { r.same.cells[wayHAProxyUnix][1].rps = []float64{1150, 1150, 1150} }},
		{"but not much", "relay`, unix socket to the node: at least 0.85", "missed", func(r *report) { r.same.cells[wayHAProxyUnix][1].rps = []float64{1200, 1200, 1200} }},
		{"the relay takes too much", "2.4 × direct's CPU, 128 B, 32 ", "missed", func(r *report) { r.same.cells[wayRelayUnix][1].cpu = []float64{25, 25, 25} }},
		{"rules are slow", "0.75 × the calls of a relay that changes nothing, 1 KiB of JSON, 32", "missed", func(r *report) { r.changed.cells[wayRules][1].rps = []float64{700, 700, 700} }},
		{"the guest answers little", "a guest in C answers", "missed", func(r *report) { r.changed.cells[wayHostC][1].rps = []float64{250, 250, 250} }},
		{"a mapping is slow", "a mapping takes", "missed", func(r *report) { r.mapped[1].times = []float64{26} }},
		{"the guest is slow", "by itself", "missed", func(r *report) { r.mapped[2].times = []float64{26} }},
		{"the guest's process is slow", "as a whole call", "missed", func(r *report) { r.changed.cells[wayHostC][0].cpu = []float64{21, 21, 21} }},
		{"connections are large", "idle", "missed", func(r *report) { r.idle = 17 << 10 }},
	} {
		found := false
		for _, g := range planted(c.change).goals() {
			if c.goal == "" && g.verdict() != c.verdict {
				t.Errorf("%s: %+v", c.name, g)
			}
			if !found && c.goal != "" && strings.Contains(g.goal, c.goal) {
				found = true
				if g.verdict() != c.verdict {
					t.Errorf("%s: %+v, want %s", c.name, g, c.verdict)
				}
			}
		}
		if c.goal != "" && !found {
			t.Errorf("%s: there is no goal %q", c.name, c.goal)
		}
	}
}

// TestSpread: a tenth of the rounds, and no more, may be anything.
func TestSpread(t *testing.T) {
	v := []float64{9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1.1, 0.9, 0.1}
	if low, high := spread(v); low != 0.9 || high != 1.1 {
		t.Errorf("%v to %v", low, high)
	}
	if low, high := spread([]float64{2, 1, 3}); low != 1 || high != 3 {
		t.Errorf("of three: %v to %v", low, high)
	}
}

// TestSurely: for 16 rounds the sign test leaves out three at either end.
func TestSurely(t *testing.T) {
	v := []float64{16, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1}
	if low, high := surely(v); low != 4 || high != 13 {
		t.Errorf("%v to %v", low, high)
	}
	if low, high := surely([]float64{2, 1, 3}); low != 1 || high != 3 {
		t.Errorf("of three: %v to %v", low, high)
	}
}

func TestReplaceTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n" + tableBegins + "old\n" + tableEnds + "after\n")
	for range 2 {
		if err := replaceTable(path, "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "before\n"+tableBegins+"new\n\n"+tableEnds+"after\n" {
		t.Errorf("%q %v", got, err)
	}
	for _, text := range []string{"", tableBegins, tableEnds + tableBegins} {
		write(text)
		if err := replaceTable(path, "new\n"); err == nil {
			t.Errorf("%q was taken for a document with marks", text)
		}
	}
}

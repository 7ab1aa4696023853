package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// dashboard is what the test looks at of Grafana's model.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
			Datasource *datasource
		}
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Datasource  *datasource
	FieldConfig struct {
		Defaults struct{ Unit string }
	}
	Targets []struct {
		RefID, Expr, LegendFormat string
		Datasource                *datasource
	}
}

type datasource struct{ Type, UID string }

// byVariable reports whether the data source is what whoever looks at it has chosen.
func (d *datasource) byVariable() bool {
	return d != nil && *d == datasource{"prometheus", "${datasource}"}
}

// faults are what is wrong with a dashboard, but for the syntax of its expressions, which are
// returned.
func faults(text []byte) (exprs, wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, []string{err.Error()}
	}
	variables := map[string]string{}
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Type
		if v.Type == "query" && !v.Datasource.byVariable() {
			say("variable %s asks the data source %v", v.Name, v.Datasource)
		}
		for _, name := range unknown(string(v.Query)) {
			say("variable %s asks for %s, which no agent shows", v.Name, name)
		}
	}
	if variables["datasource"] != "datasource" {
		say("the data source is no variable")
	}
	if n := strings.Count(string(text), `"uid": "`) - strings.Count(string(text), `"uid": "${datasource}"`); n != 1 {
		say("%d uids beside that of the data source; that of the dashboard is one", n)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if p.Title == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			say("panel %d %q has no title, no unit or no query", p.ID, p.Title)
		}
		if !p.Datasource.byVariable() {
			say("%s: data source %v", p.Title, p.Datasource)
		}
		if ids[p.ID] {
			say("%s: its number %d is another's, too", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if at[0] >= 24 || taken[at] != "" {
					say("%s: lies over %q, or over the edge, at %v", p.Title, taken[at], at)
				}
				taken[at] = p.Title
			}
		}
		for _, t := range p.Targets {
			if t.Datasource != nil && !t.Datasource.byVariable() {
				say("%s: query %s: data source %v", p.Title, t.RefID, t.Datasource)
			}
			for _, name := range unknown(t.Expr) {
				say("%s asks for %s, which no agent shows", p.Title, name)
			}
			if !strings.Contains(t.Expr, `job="$job"`) {
				say("%s: query %s is of every cluster", p.Title, t.RefID)
			}
			exprs = append(exprs, promQL(t.Expr))
		}
	}
	return exprs, wrong
}

var words = regexp.MustCompile(`moult_[a-z_]+`)

// unknown returns which metrics of an expression no agent shows.
func unknown(expr string) (names []string) {
	known := map[string]bool{}
	for _, m := range all {
		if m.kind != histogram {
			known[m.name] = true
			continue
		}
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			known[m.name+part] = true
		}
	}
	for _, name := range words.FindAllString(expr, -1) {
		if !known[name] {
			names = append(names, name)
		}
	}
	return names
}

// promQL puts in what Grafana would.
func promQL(expr string) string {
	return strings.NewReplacer("$job", "moult", "$__rate_interval", "1m").Replace(expr)
}

// TestDashboard checks the dashboard against the code and, where promtool is, its expressions.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile(docs + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	exprs, wrong := faults(text)
	if len(wrong) > 0 || len(exprs) == 0 {
		t.Errorf("docs/dashboard.json: %d queries\n%s", len(exprs), strings.Join(wrong, "\n"))
	}
	for of, swap := range map[string][2]string{
		"an unknown metric":   {"moult_alarms", "moult_larms"},
		"no unit":             {`"unit": "reqps"`, `"unit": ""`},
		"no title":            {`"title": "Nodes by phase"`, `"title": ""`},
		"a data source":       {"${datasource}", "PBFA97CFB590B2093"},
		"panels that overlap": {`"x": 8, `, `"x": 7, `},
		"a bare histogram":    {"moult_call_duration_seconds_bucket", "moult_call_duration_seconds"},
	} {
		bad := strings.Replace(string(text), swap[0], swap[1], 1)
		if _, wrong := faults([]byte(bad)); bad == string(text) || len(wrong) == 0 {
			t.Errorf("a dashboard with %s is not seen to be wrong", of)
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool, of Debian's package prometheus, is not here: the dashboard's expressions are not parsed")
	}
	check := func(exprs ...string) error {
		rules := "groups:\n- name: dashboard\n  rules:\n"
		for i, e := range exprs {
			rules += fmt.Sprintf("  - record: panel:%d\n    expr: %q\n", i, e)
		}
		path := filepath.Join(t.TempDir(), "rules.yml")
		if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(promtool, "check", "rules", path).CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}
	if err := check(exprs...); err != nil {
		t.Error(err)
	}
	if check("sum by (state (moult_alarms)") == nil {
		t.Error("an expression that is none passes")
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/fleet"
	"moult/agent/notify"
	"moult/cmd/moult/internal/demo"
	"moult/cmd/moult/internal/plan"
	"moult/gossip/view"
	"moult/simlayer/so"
	"moult/store/bundle"
)

var rewriteJSON = flag.Bool("rewrite-json", false, "write the golden files of TestDocJSON anew")

// jsonDocument is what a command writes by -o json.
type jsonDocument struct {
	command string
	t       reflect.Type
}

// jsonDocuments are all there are; every other command writes an outcome.
var jsonDocuments = map[string]jsonDocument{
	"status": {"status", reflect.TypeFor[control.Status]()}, "why": {"why", reflect.TypeFor[control.Why]()}, "history": {"history", reflect.TypeFor[control.History]()},
	"members": {"members", reflect.TypeFor[ringMembers]()}, "member-list": {"member list", reflect.TypeFor[memberList]()},
	"plan": {"plan", reflect.TypeFor[plan.Report]()}, "rules-test": {"rules test", reflect.TypeFor[rulesReport]()},
	"bundle-inspect": {"bundle inspect", reflect.TypeFor[inspection]()}, "demo": {"demo", reflect.TypeFor[demo.Report]()},
	"rehearse": {"rehearse", reflect.TypeFor[control.Rehearsal]()},
	"simulate": {"simulate", reflect.TypeFor[fleet.Report]()},
	"version":  {"version", reflect.TypeFor[buildReport]()},
	"event":    {"", reflect.TypeFor[notify.Event]()},
	"outcome":  {"", reflect.TypeFor[outcome]()}, "error": {"", reflect.TypeFor[failure]()},
}

// jsonTitles are the headings in docs/json.md under which the fields of a type stand.
var jsonTitles = map[reflect.Type]string{
	reflect.TypeFor[control.Status](): "status", reflect.TypeFor[control.Local](): "own node", reflect.TypeFor[control.Way](): "way",
	reflect.TypeFor[control.LocalService](): "own service", reflect.TypeFor[control.CallCount](): "calls",
	reflect.TypeFor[control.ObjectStatus](): "object", reflect.TypeFor[control.ObservationStatus](): "observation",
	reflect.TypeFor[control.ReleaseStatus](): "release", reflect.TypeFor[control.ClassStatus](): "class", reflect.TypeFor[control.NodeStatus](): "node",
	reflect.TypeFor[view.Enrolment](): "enrolment", reflect.TypeFor[control.ServiceStatus](): "service", reflect.TypeFor[bundle.Platform](): "platform",
	reflect.TypeFor[control.Why](): "why", reflect.TypeFor[control.History](): "history", reflect.TypeFor[control.HistoryPhase](): "phase", reflect.TypeFor[control.HistorySigned](): "signed document", reflect.TypeFor[ringMembers](): "members", reflect.TypeFor[control.Member](): "peer",
	reflect.TypeFor[memberList](): "member list", reflect.TypeFor[memberLine](): "enrolled node", reflect.TypeFor[tokenLine](): "join token",
	reflect.TypeFor[plan.Report](): "plan", reflect.TypeFor[fleet.Report](): "simulate", reflect.TypeFor[plan.Class](): "planned class", reflect.TypeFor[plan.Artifact](): "planned artifact",
	reflect.TypeFor[plan.Calls](): "planned calls", reflect.TypeFor[plan.Outline](): "outline of rules", reflect.TypeFor[plan.Denial](): "denial",
	reflect.TypeFor[plan.Ring](): "planned rollout", reflect.TypeFor[plan.RingClass](): "planned rollout of a class", reflect.TypeFor[plan.RingNode](): "planned node", reflect.TypeFor[plan.Expected](): "expected",
	reflect.TypeFor[notify.Event](): "event", reflect.TypeFor[control.Rehearsal](): "rehearse", reflect.TypeFor[control.RehearsalStage](): "stage",
	reflect.TypeFor[rulesReport](): "rules test", reflect.TypeFor[rulesFile](): "rules file", reflect.TypeFor[so.Result](): "example",
	reflect.TypeFor[so.Difference](): "difference", reflect.TypeFor[so.CallPlace](): "call of a rules file",
	reflect.TypeFor[inspection](): "bundle inspect", reflect.TypeFor[bundle.Manifest](): "manifest", reflect.TypeFor[bundle.ClassUpgrade](): "class upgrade",
	reflect.TypeFor[bundle.AgentUpgrade](): "agent upgrade", reflect.TypeFor[bundle.AgentArtifact](): "agent artifact", reflect.TypeFor[plan.Agent](): "planned agent", reflect.TypeFor[control.AgentsStatus](): "agents", reflect.TypeFor[view.AgentBuild](): "agent",
	reflect.TypeFor[bundle.Artifact](): "artifact", reflect.TypeFor[bundle.Chunk](): "chunk", reflect.TypeFor[bundle.Service](): "service of a release",
	reflect.TypeFor[bundle.Health](): "health", reflect.TypeFor[bundle.Transform](): "transform", reflect.TypeFor[bundle.Reverse](): "reverse", reflect.TypeFor[bundle.Hooks](): "hooks", reflect.TypeFor[bundle.Rehearse](): "rehearse of a release", reflect.TypeFor[view.Rehearsal](): "rehearsal", reflect.TypeFor[view.Turned](): "turned", reflect.TypeFor[bundle.Fact](): "fact of a release", reflect.TypeFor[view.Fact](): "fact", reflect.TypeFor[bundle.Simulation](): "simulation object of a release",
	reflect.TypeFor[bundle.ScheduleSpec](): "schedule", reflect.TypeFor[bundle.Window](): "window", reflect.TypeFor[bundle.Wave](): "wave", reflect.TypeFor[bundle.Spread](): "spread", reflect.TypeFor[demo.Report](): "demo", reflect.TypeFor[demo.Calls](): "calls of the demo",
	reflect.TypeFor[buildReport](): "version", reflect.TypeFor[formats](): "formats", reflect.TypeFor[outcome](): "outcome", reflect.TypeFor[failure](): "error",
}

// jsonField is a field as docs/json.md has it.
type jsonField struct {
	name, kind string
	optional   bool
}

func (f jsonField) String() string {
	if f.optional {
		return fmt.Sprintf("| `%s`, optional | %s |", f.name, f.kind)
	}
	return fmt.Sprintf("| `%s` | %s |", f.name, f.kind)
}

// kindOf names the form of a type, in the words of docs/json.md.
func kindOf(t *testing.T, of reflect.Type) string {
	switch of {
	case reflect.TypeFor[bundle.Version]():
		return "version"
	case reflect.TypeFor[bundle.Digest]():
		return "digest"
	case reflect.TypeFor[bundle.NodeID]():
		return "node ID"
	case reflect.TypeFor[bundle.Duration]():
		return "duration"
	case reflect.TypeFor[time.Time]():
		return "time"
	}
	switch of.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64:
		return "number"
	case reflect.Pointer:
		return kindOf(t, of.Elem())
	case reflect.Slice:
		if of.Elem().Kind() == reflect.Uint8 {
			return "base64"
		}
		return "list of " + kindOf(t, of.Elem())
	case reflect.Map:
		return kindOf(t, of.Elem()) + ", by " + kindOf(t, of.Key())
	case reflect.Struct:
		title := jsonTitles[of]
		if title == "" {
			t.Errorf("type %s is in a document of -o json, and has no title in jsonTitles", of)
		}
		return "[" + title + "](#" + strings.ReplaceAll(title, " ", "-") + ")"
	}
	t.Errorf("%s: a type that docs/json.md has no word for", of)
	return ""
}

// jsonFields are the fields of all types below a document's.
func jsonFields(t *testing.T, of reflect.Type, into map[string][]jsonField) {
	switch of.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		jsonFields(t, of.Elem(), into)
		return
	case reflect.Struct:
	default:
		return
	}
	title := jsonTitles[of]
	if into[title] != nil || ownJSON(of) {
		return
	}
	into[title] = []jsonField{}
	for i := range of.NumField() {
		f := of.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" { // its fields stand here
			inner := map[string][]jsonField{}
			jsonFields(t, f.Type, inner)
			into[title] = append(into[title], inner[jsonTitles[f.Type]]...)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(name) {
			t.Errorf("%s.%s is %q in JSON: want small_letters", of, f.Name, name)
		}
		kind := kindOf(t, f.Type)
		optional := strings.Contains(options, "omit")
		if f.Type.Kind() == reflect.Pointer && !optional {
			kind += ", or null"
		}
		into[title] = append(into[title], jsonField{name, kind, optional})
		jsonFields(t, f.Type, into)
	}
}

// documented reads the tables of fields of docs/json.md.
func documented(t *testing.T) (rows map[string][]string, text string) {
	t.Helper()
	data, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	rows = map[string][]string{}
	title := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "### "); ok {
			title = name
			rows[title] = []string{}
		} else if strings.HasPrefix(line, "## ") {
			title = ""
		}
		if title == "" || !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.SplitN(line, " | ", 3)
		if len(cells) != 3 || strings.Trim(cells[2], " |") == "" {
			t.Errorf("docs/json.md: %s: a row without its meaning: %s", title, line)
			continue
		}
		rows[title] = append(rows[title], cells[0]+" | "+cells[1]+" |")
	}
	return rows, string(data)
}

// TestDocJSON: docs/json.md has each field of each document that -o json writes, as the types
// have it and in their order; and what is written is what the golden files have.
func TestDocJSON(t *testing.T) {
	want := map[string][]jsonField{}
	for _, d := range jsonDocuments {
		jsonFields(t, d.t, want)
	}
	have, _ := documented(t)
	for title, fields := range want {
		var rows []string
		for _, f := range fields {
			rows = append(rows, f.String())
		}
		if !slices.Equal(rows, have[title]) {
			t.Errorf("docs/json.md: ### %s: the types have\n%s\nand the document\n%s", title, strings.Join(rows, "\n"), strings.Join(have[title], "\n"))
		}
		delete(have, title)
	}
	for title := range have {
		t.Errorf("docs/json.md: ### %s: no document has it", title)
	}
	for name, d := range jsonDocuments {
		n := 0
		var got bytes.Buffer
		if err := writeJSON(&got, sampleOf(t, d.t, &n).Interface()); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", "json", name+".json")
		if *rewriteJSON {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(golden, got.Bytes()) {
			t.Errorf("%s is not what is written (if that is meant: go test ./cmd/moult -run TestDocJSON -rewrite-json): %v\n%s", path, err, got.Bytes())
		}
	}
}

// sampleOf fills in every field, each with something of its own.
func sampleOf(t *testing.T, of reflect.Type, n *int) reflect.Value {
	v := reflect.New(of).Elem()
	*n++
	switch of {
	case reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, *n, 0, time.UTC)))
		return v
	case reflect.TypeFor[bundle.Duration]():
		v.Set(reflect.ValueOf(bundle.Duration(time.Duration(*n) * 1500 * time.Millisecond)))
		return v
	}
	switch of.Kind() {
	case reflect.String:
		v.SetString("text" + strconv.Itoa(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(byte(*n)))
	case reflect.Float64:
		v.SetFloat(float64(*n) / 4)
	case reflect.Pointer:
		v.Set(reflect.New(of.Elem()))
		v.Elem().Set(sampleOf(t, of.Elem(), n))
	case reflect.Slice, reflect.Array:
		if of.Kind() == reflect.Slice {
			v.Set(reflect.MakeSlice(of, 1, 1))
		}
		v.Index(0).Set(sampleOf(t, of.Elem(), n))
	case reflect.Map:
		v.Set(reflect.MakeMap(of))
		v.SetMapIndex(sampleOf(t, of.Key(), n), sampleOf(t, of.Elem(), n))
	case reflect.Struct:
		for i := range of.NumField() {
			if of.Field(i).IsExported() {
				v.Field(i).Set(sampleOf(t, of.Field(i).Type, n))
			}
		}
	default:
		t.Errorf("no sample of %s", of)
	}
	return v
}

// Where there is nothing a list is empty, and a map, in whatever they lie.
func TestJSONHasNoNull(t *testing.T) {
	nullable := map[string]bool{"version": true} // says of its build what it knows
	for name, d := range jsonDocuments {
		var got bytes.Buffer
		if err := writeJSON(&got, reflect.New(d.t).Elem().Interface()); err != nil {
			t.Fatal(err)
		}
		if !nullable[name] && strings.Contains(got.String(), "null") {
			t.Errorf("%s:\n%s", name, got.String())
		}
	}
	var got bytes.Buffer
	deep := &rulesReport{Files: []rulesFile{{Examples: []so.Result{{}}}}}
	if err := writeJSON(&got, map[string]any{"x": deep}["x"]); err != nil || strings.Contains(got.String(), "null") || !strings.Contains(got.String(), `"differences": []`) {
		t.Errorf("%v\n%s", err, got.String())
	}
	if deep.Files[0].Examples[0].Differences != nil {
		t.Error("what was written was changed")
	}
}

// Every command has -o json, or docs/json.md says why it has none.
func TestEveryCommandHasJSON(t *testing.T) {
	_, text := documented(t)
	own := map[string]bool{}
	for _, d := range jsonDocuments {
		own[d.command] = d.command != ""
	}
	found := 0
	var visit func(prefix string, commands []*cli.Command)
	visit = func(prefix string, commands []*cli.Command) {
		for _, c := range commands {
			name := prefix + c.Name
			if len(c.Subcommands) > 0 {
				visit(name+" ", c.Subcommands)
				continue
			}
			has := slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "o") })
			says := strings.Contains(text, "| `moult "+name+"` | ")
			none := strings.Contains(text, "`moult "+name+"` has none: ")
			if own[name] {
				found++
			}
			if has == none || !none && says != own[name] {
				t.Errorf("moult %s: -o: %v, a document of its own: %v; docs/json.md says so: %v, that it has none: %v", name, has, own[name], says, none)
			}
		}
	}
	visit("", newApp(io.Discard, io.Discard).Commands)
	want := 0
	for _, own := range own {
		if own {
			want++
		}
	}
	if found != want || want == 0 {
		t.Errorf("%d commands with a document of their own, want %d", found, want)
	}
}

// An error is one line of JSON where that was asked for, whatever is wrong with the rest.
func TestErrorsAsJSON(t *testing.T) {
	for _, c := range []struct {
		args []string
		json bool
		kind string
		code int
	}{
		{[]string{"status", "-o", "json", "--agent", t.TempDir()}, true, "failed", exitFailed},
		{[]string{"status", "--output=json", "--no-such-flag"}, true, "misuse", exitMisuse},
		{[]string{"pause", "-o", "json", "n1"}, true, "misuse", exitMisuse},
		{[]string{"join", "-o", "json"}, true, "misuse", exitMisuse},
		{[]string{"status", "-o", "text", "n1"}, false, "", exitMisuse},
		{[]string{"status", "-o", "xml"}, false, "", exitMisuse},
		{[]string{"why", "--", "-o", "json"}, false, "", exitMisuse},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"moult"}, c.args...), &out, &errs)
		var f failure
		err := json.Unmarshal(errs.Bytes(), &f)
		if code != c.code || out.Len() != 0 || (err == nil) != c.json {
			t.Errorf("%q: exit %d, stdout %q, stderr %q (%v)", c.args, code, out.String(), errs.String(), err)
			continue
		}
		if c.json && (f.Error == "" || f.Kind != c.kind || f.Code != c.code || strings.Count(errs.String(), "\n") != 1) {
			t.Errorf("%q: %+v from %q", c.args, f, errs.String())
		}
	}
	var errs bytes.Buffer
	err := control.Refused(errors.New("it is held"), "wait")
	if code := tellError(&errs, []string{"moult", "inject", "-o=json"}, err); code != exitRefused || errs.String() != `{"error":"it is held","hint":"wait","kind":"refused","code":3}`+"\n" {
		t.Errorf("%d, %s", code, errs.String())
	}
}

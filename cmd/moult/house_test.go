package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "moult/"

// floors gives each package its floor: an import may only point to a lower
// one. See docs/rationale.md, "The house".
var floors = map[string]int{
	"store/durable":            -3,
	"store/standin":            -3,
	"store/bundle/hclguard":    0,
	"store/bundle":             -2,
	"store/bundle/placeholder": -3,
	"store/bundle/trust":       -1,
	"store/bundle/archive":     0,
	"store/bundle/build":       1,
	"gossip/view":              1,
	"transforms/stray":         0,
	"agent/account":            0,
	"agent/account/sandbox":    -1,
	"agent/account/cgroup":     -2,
	"agent/account/bounds":     -1,
	"transforms":               1,
	"simlayer/so/cputime":      -1,
	"simlayer/so/jq":           0,
	"simlayer/so":              1,
	"simlayer/wire":            1,
	"simlayer/so/wasm":         2,
	"simlayer/so/wasm/fuel":    1,
	"simlayer/attach":          1,
	"simlayer/proxy":           2,
	"simlayer/stream":          1,
	"simlayer/sockets":         1,
	"simlayer/relay":           2,
	"simlayer/gate":            3,
	"agent/schedule":           2,
	"agent/schedule/expr":      0,
	"agent/membership":         2,
	"agent/upgrade":            2,
	"agent/config":             3,
	"agent/node":               3,
	"store":                    3,
	"store/artifact":           3,
	"gossip":                   3,
	"gossip/swarm":             3,
	"simlayer/connect":         2,
	"simlayer/dial":            3,
	"simlayer/tally":           0,
	"simlayer/packets":         2,
	"simlayer/egress":          3,
	"simlayer/observe":         3,
	"simlayer/routes":          4,
	"simlayer/calls":           5,
	"simlayer":                 6,
	"agent/process":            3,
	"simlayer/host/child":      1,
	"simlayer/host/control":    2,
	"simlayer/host/guests":     3,
	"simlayer/host":            4,
	"agent/control":            2,
	"agent/operator":           3,
	"agent/fleet":              3,
	"agent/metrics":            3,
	"agent/objects":            7,
	"agent/software":           7,
	"agent/ways":               7,
	"agent/rehearse":           5,
	"agent/backup":             5,
	"agent/facts":              5,
	"agent/fdstore":            0,
	"agent":                    8,
	"agent/sim":                4,
	"agent/sim/agenda":         0,
	"agent/sim/every":          4,
	"agent/report":             4,
	"agent/home":               4,
	"agent/notify":             5,
	"agent/selfupdate":         5,
	"simlayer/speed":           7,

	"simlayer/packets/packetstest": 2,

	"cmd/moult/internal/cluster": 9,
	"cmd/moult/internal/screen":  8,
	"cmd/moult/internal/unit":    8,
	"cmd/moult/internal/chart":   8,
	"cmd/moult/internal/status":  9,
	"cmd/moult/internal/plan":    10,
	"cmd/moult/internal/web":     9,
	"cmd/moult/internal/demo":    10,
	"docs":                       10,
	"cmd/moult":                  11,
}

// pure lists packages that decide: no clock of their own, no network, no
// disk, no goroutines' helpers. What they need to know comes in as values. What they
// may not do, imports apart, is in house_pure_test.go.
var pure = []string{"gossip/view", "agent/schedule", "agent/upgrade", "agent/node", "agent/report", "simlayer/so/jq", "simlayer/relay"}

// impure lists what a pure package may not import, each with its reason.
var impure = map[string]string{
	"context":                        "a decision does not wait, so there is nothing to cancel",
	"net":                            "a decision must not depend on the network",
	"net/http":                       "a decision must not depend on the network",
	"os":                             "a decision must not depend on the disk or the environment",
	"os/exec":                        "a decision must not start programs",
	"sync":                           "pure state has one owner, so there is nothing to lock",
	"sync/atomic":                    "pure state has one owner, so there is nothing to share",
	"math/rand":                      "a decision must replay",
	"math/rand/v2":                   "a decision must replay",
	"log/slog":                       "a decision is returned, not logged",
	"github.com/hashicorp/serf/serf": "membership is for people and pacing, never evidence",
}

// banned lists what no package may import, with the reason.
var banned = map[string]string{
	"github.com/theupdateframework/go-tuf/v2/metadata/updater": "it fetches and logs on its own; peers bring the metadata",
	"io/ioutil": "superseded",
	"log":       "log/slog, injected, is how this project logs",
}

// excused lists, by package, what it may import all the same, with the reason.
var excused = map[string]map[string]string{
	"gossip": {"log": "Serf, memberlist and net/http take a *log.Logger, which is bridged to log/slog there"},
	"simlayer/so/jq": {
		"context": "gojq, where an expression is not bounded by its form, ends with its context",
		"sync":    "a pool of memory, which changes no result",
	},
}

// systems are those that the floors are looked at for: files of one system are not
// among those of another.
var systems = []string{"linux", "darwin", "windows"}

type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
	system     string
}

// list returns the packages as they are on one operating system.
func list(t *testing.T, system string) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Imports,GoFiles", module+"...")
	cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list for %s: %v", system, err)
	}
	var all []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		p := listed{system: system}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
}

// violations returns what is wrong with the imports of one package.
func violations(p listed) []string {
	var bad []string
	report := func(imp, why string) {
		bad = append(bad, p.ImportPath+" imports "+imp+" (on "+p.system+"): "+why)
	}
	floor, known := floors[p.ImportPath]
	if !known {
		return []string{p.ImportPath + ": give it a floor in house_test.go, and a place in the table of docs/rationale.md"}
	}
	for _, imp := range p.Imports {
		excuse := excused[p.ImportPath][imp] != ""
		if why, ok := banned[imp]; ok && !excuse {
			report(imp, why)
		}
		if why, ok := impure[imp]; ok && !excuse && slices.Contains(pure, p.ImportPath) {
			report(imp, why)
		}
		if imp == "golang.org/x/sys/unix" && p.system == "windows" {
			report(imp, "it is empty there; put what needs it into a file of the systems that have it")
		}
		own, ok := strings.CutPrefix(imp, module)
		if !ok {
			continue
		}
		if strings.HasPrefix(own, "testdata/") {
			if p.ImportPath != "cmd/moult/internal/demo" {
				report(imp, "only the demo knows the sample system")
			}
			continue
		}
		if to, ok := floors[own]; !ok || to >= floor {
			report(imp, "it is not on a lower floor")
		}
	}
	return bad
}

func TestImportFloors(t *testing.T) {
	for _, system := range systems {
		for _, p := range list(t, system) {
			for _, v := range violations(p) {
				t.Error(v)
			}
		}
	}
}

// TestImportFloorsCatch shows that the check above can fail.
func TestImportFloorsCatch(t *testing.T) {
	for _, c := range []struct{ path, imports, system string }{
		{"gossip", "moult/store", "linux"},
		{"store/bundle", "moult/gossip/view", "linux"},
		{"agent/schedule", "net", "darwin"},
		{"agent/upgrade", "sync", "linux"},
		{"simlayer", "log", "linux"},
		{"gossip", "moult/testdata/kv", "linux"},
		{"simlayer", "golang.org/x/sys/unix", "windows"},
		{"unheard/of", "fmt", "linux"},
	} {
		if len(violations(listed{ImportPath: c.path, Imports: []string{c.imports}, system: c.system})) == 0 {
			t.Errorf("%s importing %s was let through", c.path, c.imports)
		}
	}
}

// The table of docs/rationale.md is the floors, all of them, for people: those at or
// below 0 are its floor 0, where each package imports only those that stand before it.
func TestHouseTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/rationale.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range tableFaults(string(page), floors) {
		t.Error(bad)
	}
}

var tablePackage = regexp.MustCompile("`([a-z0-9/]+)`")

// tableFaults compares a page's table of floors with the floors.
func tableFaults(page string, floors map[string]int) (bad []string) {
	seen := map[string]bool{}
	last := math.MinInt
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		row, err := strconv.Atoi(strings.TrimSpace(cells[1]))
		if err != nil {
			continue
		}
		for _, m := range tablePackage.FindAllStringSubmatch(cells[2], -1) {
			floor, known := floors[m[1]]
			switch {
			case !known:
				bad = append(bad, "docs/rationale.md: there is no package "+m[1])
			case max(floor, 0) != row:
				bad = append(bad, fmt.Sprintf("docs/rationale.md: %s stands on floor %d, and is on %d", m[1], row, floor))
			case floor <= 0 && floor < last:
				bad = append(bad, "docs/rationale.md: "+m[1]+" stands behind what may import it")
			case seen[m[1]]:
				bad = append(bad, "docs/rationale.md: "+m[1]+" stands there twice")
			}
			seen[m[1]], last = true, floor
		}
	}
	for _, p := range slices.Sorted(maps.Keys(floors)) {
		if !seen[p] {
			bad = append(bad, "docs/rationale.md: the table of floors lacks "+p)
		}
	}
	return bad
}

func TestHouseTableCatches(t *testing.T) {
	floors := map[string]int{"a": -1, "b": 0, "c": 1}
	const good = "| floor | packages | what |\n|---|---|---|\n| 0 | `a`, `b` | x |\n| 1 | `c` | `z` |\n"
	if bad := tableFaults(good, floors); bad != nil {
		t.Errorf("a good table: %v", bad)
	}
	for what, page := range map[string]string{
		"missing":     strings.Replace(good, "`c`", "", 1),
		"wrong floor": strings.Replace(good, "| 1 |", "| 2 |", 1),
		"wrong order": strings.Replace(good, "`a`, `b`", "`b`, `a`", 1),
		"unknown":     strings.Replace(good, "`c`", "`c`, `d`", 1),
		"twice":       strings.Replace(good, "`a`, `b`", "`a`, `a`, `b`", 1),
	} {
		if len(tableFaults(page, floors)) == 0 {
			t.Errorf("%s: let through", what)
		}
	}
}

// Limits of the house, tests apart: a room that is larger is more than one, and a
// function that does not fit a screen or two is more than one, too.
const (
	maxFiles     = 25
	maxLines     = 4500
	maxFuncLines = 100
)

// roomy lists what may be larger, with the reason.
var roomy = map[string]string{
	"simlayer/so": "rules, their parser, tester and templates are one language",
}

// size is what counts of a package.
type size struct {
	files, lines int
	long         []string // functions that are too long
}

func sizeOf(dir string) (s size, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return s, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return s, err
		}
		s.files++
		s.lines += strings.Count(string(text), "\n")
		long, err := longFunctions(name, text)
		if err != nil {
			return s, err
		}
		s.long = append(s.long, long...)
	}
	return s, nil
}

// longFunctions names the functions of a file that have too many lines.
func longFunctions(name string, text []byte) (long []string, err error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fset.Position(fn.End()).Line-fset.Position(fn.Pos()).Line >= maxFuncLines {
			long = append(long, fn.Name.Name)
		}
	}
	return long, nil
}

// excess says what a package has too much of, its excuses apart.
func (s size) excess(path string, roomy map[string]string) (bad []string) {
	if (s.files > maxFiles || s.lines > maxLines) && roomy[path] == "" {
		bad = append(bad, fmt.Sprintf("%s has %d files and %d lines, want at most %d and %d: cut it by meaning", path, s.files, s.lines, maxFiles, maxLines))
	}
	for _, f := range s.long {
		if roomy[path+"."+f] == "" {
			bad = append(bad, fmt.Sprintf("%s: func %s has more than %d lines: take parts out of it that have names", path, f, maxFuncLines))
		}
	}
	return bad
}

func TestHouseLimits(t *testing.T) {
	for _, p := range list(t, "linux") {
		s, err := sizeOf(p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range s.excess(p.ImportPath, roomy) {
			t.Error(bad)
		}
	}
}

func TestHouseLimitsCatch(t *testing.T) {
	long, err := longFunctions("x.go", []byte("package x\n\nfunc long() {\n"+strings.Repeat("\tlong()\n", maxFuncLines)+"}\n\nfunc short() {}\n"))
	if err != nil || !slices.Equal(long, []string{"long"}) {
		t.Fatalf("long functions %v, %v", long, err)
	}
	for what, s := range map[string]size{
		"files": {files: maxFiles + 1}, "lines": {lines: maxLines + 1}, "a function": {long: long},
	} {
		if len(s.excess("p", nil)) == 0 {
			t.Errorf("too many %s: let through", what)
		}
		if bad := s.excess("p", map[string]string{"p": "why", "p.long": "why"}); len(bad) > 0 {
			t.Errorf("%s, though excused: %v", what, bad)
		}
	}
	if bad := (size{files: maxFiles, lines: maxLines}).excess("p", nil); len(bad) > 0 {
		t.Errorf("just enough: %v", bad)
	}
}

func TestEveryPackageHasOneDoc(t *testing.T) {
	for _, p := range list(t, "linux") {
		docs := map[string]bool{}
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				docs[name] = true
			}
		}
		if len(docs) != 1 {
			t.Errorf("%s: package doc in %v, want exactly one", p.ImportPath, slices.Sorted(maps.Keys(docs)))
		}
	}
}

package main

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "moult/"

// floors gives each package its floor: an import may only point to a lower
// one. See docs/rationale.md, "The house".
var floors = map[string]int{
	"store/durable":         -3,
	"store/bundle/hclguard": 0,
	"store/bundle":          -2,
	"store/bundle/trust":    -1,
	"store/bundle/archive":  0,
	"store/bundle/build":    1,
	"gossip/view":           1,
	"transforms/stray":      0,
	"transforms":            1,
	"simlayer/so/cputime":   -1,
	"simlayer/so/jq":        0,
	"simlayer/so":           1,
	"simlayer/wire":         1,
	"simlayer/so/wasm":      2,
	"simlayer/so/wasm/fuel": 1,
	"simlayer/attach":       1,
	"simlayer/proxy":        2,
	"simlayer/stream":       1,
	"simlayer/relay":        2,
	"agent/schedule":        2,
	"agent/upgrade":         2,
	"store":                 3,
	"store/artifact":        3,
	"gossip":                3,
	"gossip/swarm":          3,
	"simlayer/connect":      2,
	"simlayer/dial":         3,
	"simlayer/tally":        0,
	"simlayer/packets":      2,
	"simlayer/egress":       3,
	"simlayer/observe":      3,
	"simlayer":              4,
	"agent/process":         3,
	"simlayer/host/child":   1,
	"simlayer/host/control": 2,
	"simlayer/host/guests":  3,
	"simlayer/host":         4,
	"agent/control":         2,
	"agent/operator":        3,
	"agent/objects":         5,
	"agent/software":        5,
	"agent/ways":            5,
	"agent":                 6,
	"agent/sim":             4,
	"simlayer/speed":        5,

	"simlayer/packets/packetstest": 2,

	"cmd/moult/internal/cluster": 7,
	"cmd/moult/internal/demo":    8,
	"cmd/moult":                  9,
}

// pure lists packages that decide: no clock of their own, no network, no
// disk, no goroutines' helpers. What they need to know comes in as values.
var pure = []string{"gossip/view", "agent/schedule", "agent/upgrade", "simlayer/relay"}

// impure lists what a pure package may not import, each with its reason.
var impure = map[string]string{
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
}

type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
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
func violations(path string, imports []string) []string {
	var bad []string
	floor, known := floors[path]
	if !known {
		return []string{path + ": give it a floor in house_test.go"}
	}
	for _, imp := range imports {
		if why, ok := banned[imp]; ok && excused[path][imp] == "" {
			bad = append(bad, path+" imports "+imp+": "+why)
		}
		if why, ok := impure[imp]; ok && slices.Contains(pure, path) {
			bad = append(bad, path+" imports "+imp+": "+why)
		}
		own, ok := strings.CutPrefix(imp, module)
		if !ok || strings.HasPrefix(own, "testdata/") {
			if ok && path != "cmd/moult/internal/demo" {
				bad = append(bad, path+" imports "+imp+": only the demo knows the sample system")
			}
			continue
		}
		if to, ok := floors[own]; !ok || to >= floor {
			bad = append(bad, path+" imports "+own+", which is not on a lower floor")
		}
	}
	return bad
}

func TestImportFloors(t *testing.T) {
	for _, p := range list(t) {
		for _, v := range violations(p.ImportPath, p.Imports) {
			t.Error(v)
		}
	}
}

// TestImportFloorsCatch shows that the check above can fail.
func TestImportFloorsCatch(t *testing.T) {
	for _, c := range []struct{ path, imports string }{
		{"gossip", "moult/store"},
		{"store/bundle", "moult/gossip/view"},
		{"agent/schedule", "net"},
		{"agent/upgrade", "sync"},
		{"simlayer", "log"},
		{"gossip", "moult/testdata/kv"},
		{"unheard/of", "fmt"},
	} {
		if len(violations(c.path, []string{c.imports})) == 0 {
			t.Errorf("%s importing %s was let through", c.path, c.imports)
		}
	}
}

func TestEveryPackageHasOneDoc(t *testing.T) {
	for _, p := range list(t) {
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

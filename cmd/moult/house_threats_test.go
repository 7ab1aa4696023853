package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/threats.md tells which test shows that an attack is refused: each is there.
func TestHouseThreats(t *testing.T) {
	page, err := os.ReadFile("../../docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range threatFaults(string(page), hasTest) {
		t.Error(bad)
	}
}

var (
	// threatTest is a test as the page names it, package first.
	threatTest = regexp.MustCompile("`([a-z0-9/]+): ((?:Test|Fuzz)\\w+)`")
	// threatProof is the last cell of a row.
	threatProof = regexp.MustCompile("^(?:open|T(?:, T)*(?:; rest open)?)$")
)

// threatFaults returns what is wrong with a page of threats: rows that name no test and
// are not open either, and tests that no package has.
func threatFaults(page string, has func(path, test string) bool) (bad []string) {
	rows, inTable := 0, false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		cells := strings.Split(strings.Trim(line, "|"), "|")
		proof := strings.TrimSpace(cells[len(cells)-1])
		switch {
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case proof == "test":
			inTable = true
		case inTable && !strings.HasPrefix(line, "|--"):
			rows++
			if len(cells) != 3 || !threatProof.MatchString(threatTest.ReplaceAllString(proof, "T")) {
				bad = append(bad, "docs/threats.md: want an attack, what refuses it, and `package: TestName`s, open, or both, have "+line)
			}
		}
		for _, m := range threatTest.FindAllStringSubmatch(line, -1) {
			if !has(m[1], m[2]) {
				bad = append(bad, "docs/threats.md: package "+m[1]+" has no "+m[2])
			}
		}
	}
	if rows == 0 {
		bad = append(bad, "docs/threats.md: no table of attacks")
	}
	return bad
}

// hasTest reports whether a package's test files, of any system, have a test.
func hasTest(path, test string) bool {
	files, err := filepath.Glob(filepath.Join("../..", path, "*_test.go"))
	if err != nil {
		return false
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(text), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}

func TestHouseThreatsCatch(t *testing.T) {
	const good = "| who | has |\n|---|---|\n| a | b |\n\n| attack | what refuses it | test |\n|---|---|---|\n" +
		"| a | b | `cmd/moult: TestHouseThreats`, `gossip/view: FuzzOpen` |\n| c | d | `gossip: TestGuard`; rest open |\n| e | f | open |\n"
	if bad := threatFaults(good, hasTest); bad != nil {
		t.Errorf("a good page: %v", bad)
	}
	for what, page := range map[string]string{
		"a made-up test":      strings.Replace(good, "TestGuard", "TestGuardOfAll", 1),
		"the start of a name": strings.Replace(good, "TestGuard", "TestGua", 1),
		"another package's":   strings.Replace(good, "gossip: TestGuard", "gossip/view: TestGuard", 1),
		"a made-up package":   strings.Replace(good, "gossip: TestGuard", "rumours: TestGuard", 1),
		"without its package": strings.Replace(good, "gossip: TestGuard", "TestGuard", 1),
		"no test":             strings.Replace(good, "| open |", "| |", 1),
		"words for a test":    strings.Replace(good, "| open |", "| it is tested |", 1),
		"in the text":         good + "\nSee `gossip: TestNothing`.\n",
		"no table":            "# Threats\n",
	} {
		if page == good || len(threatFaults(page, hasTest)) == 0 {
			t.Errorf("%s: let through", what)
		}
	}
}

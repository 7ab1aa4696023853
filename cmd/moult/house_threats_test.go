package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// leastCases is how many cases the tests that docs/threats.md names must try.
const leastCases = 700

// docs/threats.md tells which tests show that an attack is refused: each is there, and
// together they try enough. What nothing refuses is told at the end, with what to do.
func TestHouseThreats(t *testing.T) {
	page, err := os.ReadFile("../../docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	counter := caseCounter{root: "../.."}
	said := readThreats(string(page), counter.count)
	for _, bad := range said.faults(leastCases) {
		t.Error(bad)
	}
	for _, line := range said.counted {
		t.Log(line)
	}
	t.Logf("%d rows, of them %d open or partly so; %d tests with %d cases", said.rows, said.open, len(said.tests), said.cases)
}

var (
	// threatTest is a test as the page names it, package first.
	threatTest = regexp.MustCompile("`([a-z0-9/]+): ((?:Test|Fuzz)\\w+)`")
	// threatProof is the last cell of a row.
	threatProof = regexp.MustCompile("^(?:open: ([a-z ]+)|T(?:, T)*(?:; rest open: ([a-z ]+))?)$")
	// threatOpen begins an entry of the list of what is open.
	threatOpen = regexp.MustCompile(`^[0-9]+\. \*\*([a-z ]+)\*\*: \S`)
)

// threats is what a page of threats says.
type threats struct {
	rows, open, cases int
	tests             map[string]bool
	reasons           map[string]bool // why rows are open: whether a row is
	counted           []string        // how many cases each test has
	bad               []string
}

// readThreats reads a page. count is how many cases a test has, or errNoTest.
func readThreats(page string, count func(path, test string) (int, error)) threats {
	said := threats{tests: map[string]bool{}, reasons: map[string]bool{}}
	for line := range strings.Lines(page) {
		if m := threatOpen.FindStringSubmatch(line); m != nil {
			said.reasons[m[1]] = false
		}
	}
	inTable := false
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
			said.row(line, len(cells), proof)
		}
		for _, m := range threatTest.FindAllStringSubmatch(line, -1) {
			said.test(m[1], m[2], count)
		}
	}
	return said
}

func (s *threats) fault(format string, args ...any) {
	s.bad = append(s.bad, "docs/threats.md: "+fmt.Sprintf(format, args...))
}

func (s *threats) row(line string, cells int, proof string) {
	s.rows++
	m := threatProof.FindStringSubmatch(threatTest.ReplaceAllString(proof, "T"))
	if cells != 3 || m == nil {
		s.fault("want an attack, what refuses it, and `package: TestName`s, \"open: WHY\", or both (\"…; rest open: WHY\"), have %s", line)
		return
	}
	if why := m[1] + m[2]; why != "" {
		s.open++
		if _, told := s.reasons[why]; !told {
			s.fault("open: %s, and the list at the end has no **%s**, which tells what to do: %s", why, why, line)
		}
		s.reasons[why] = true
	}
}

// test counts the cases of a test once, however many rows name it.
func (s *threats) test(path, test string, count func(path, test string) (int, error)) {
	name := path + ": " + test
	if s.tests[name] {
		return
	}
	s.tests[name] = true
	n, err := count(path, test)
	if errors.Is(err, errNoTest) {
		s.fault("package %s has no %s", path, test)
	} else if err != nil {
		s.fault("%v", err)
	}
	s.cases += n
	s.counted = append(s.counted, fmt.Sprintf("%4d  %s", n, name))
}

// faults is what is wrong with the page.
func (s *threats) faults(least int) []string {
	bad := slices.Clone(s.bad)
	if s.rows == 0 {
		bad = append(bad, "docs/threats.md: no table of attacks")
	}
	for why, used := range s.reasons {
		if !used {
			bad = append(bad, "docs/threats.md: the list at the end has **"+why+"**, and no row is open for that")
		}
	}
	if s.cases < least {
		bad = append(bad, fmt.Sprintf("docs/threats.md: its tests try %d cases, want at least %d", s.cases, least))
	}
	return bad
}

func TestHouseThreatsCatch(t *testing.T) {
	counter := caseCounter{root: "../.."}
	const good = "| who | has |\n|---|---|\n| a | b |\n\n| attack | what refuses it | test |\n|---|---|---|\n" +
		"| a | b | `cmd/moult: TestHouseCasesCounted`, `gossip/view: FuzzOpen` |\n| c | d | `gossip: TestGuard`; rest open: sybils |\n| e | f | open: no wall |\n" +
		"\n1. **sybils**: keep the key.\n2. **no wall**: trust\n"
	faults := func(page string, least int) []string {
		said := readThreats(page, counter.count)
		return said.faults(least)
	}
	all := readThreats(good, counter.count).cases
	if bad := faults(good, all); bad != nil {
		t.Errorf("a good page: %v", bad)
	}
	for what, c := range map[string]struct{ page, want string }{
		"a made-up test":      {strings.Replace(good, "TestGuard", "TestGuardOfAll", 1), "has no TestGuardOfAll"},
		"the start of a name": {strings.Replace(good, "TestGuard", "TestGua", 1), "has no TestGua"},
		"another package's":   {strings.Replace(good, "gossip: TestGuard", "gossip/view: TestGuard", 1), "has no TestGuard"},
		"a made-up package":   {strings.Replace(good, "gossip: TestGuard", "rumours: TestGuard", 1), "has no TestGuard"},
		"without its package": {strings.Replace(good, "gossip: TestGuard", "TestGuard", 1), "want an attack"},
		"no test":             {strings.Replace(good, "| open: no wall |", "| |", 1), "want an attack"},
		"words for a test":    {strings.Replace(good, "| open: no wall |", "| it is tested |", 1), "want an attack"},
		"open without why":    {strings.Replace(good, "| open: no wall |", "| open |", 1), "want an attack"},
		"open, and not told":  {strings.Replace(good, "**no wall**: trust", "**no walls**: trust", 1), "has no **no wall**"},
		"told without what":   {strings.Replace(good, "**no wall**: trust", "**no wall**", 1), "has no **no wall**"},
		"partly, not told":    {strings.Replace(good, "rest open: sybils", "rest open: clocks", 1), "has no **clocks**"},
		"told, and not open":  {strings.Replace(good, "; rest open: sybils", "", 1), "no row is open for that"},
		"in the text":         {good + "\nSee `gossip: TestNothing`.\n", "has no TestNothing"},
		"no table":            {"# Threats\n", "no table"},
		"few cases":           {strings.Replace(good, "`cmd/moult: TestHouseCasesCounted`, ", "", 1), "want at least"},
		"one test for many": {strings.Replace(strings.Replace(good, "`cmd/moult: TestHouseCasesCounted`, ", "", 1),
			"`gossip/view: FuzzOpen` |\n", strings.Repeat("`gossip: TestGuard`, ", 20)+"`gossip/view: FuzzOpen` |\n", 1), "want at least"},
	} {
		bad := faults(c.page, all)
		if c.page == good || !slices.ContainsFunc(bad, func(b string) bool { return strings.Contains(b, c.want) }) {
			t.Errorf("%s: want %q, have %q", what, c.want, bad)
		}
	}
}

package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What `go test` leaves to make targets, which .ci/run runs, too. There it shows each thing
// once: an upgrade under load (TestDemo), adoption, an agent's death, each kind of attach,
// and by TestScripts what users type.
var (
	allKinds = flag.Bool("mixed", false, "test mixed versions of all samples, with every kind of attach and egress")
	clusters = flag.Bool("cluster", false, "run what needs clusters of its own for long")
	pages    = flag.Bool("ui", false, "look at the page of moult ui with a browser")
	// everyPoint also has TestCrash kill the agent everywhere.
	everyPoint = flag.Bool("crash", false, "kill the agent at every failpoint, not only at one on the way there and one on the way back")
)

func inMixed(t *testing.T)   { t.Helper(); leftTo(t, "mixed", *allKinds) }
func inCluster(t *testing.T) { t.Helper(); leftTo(t, "cluster", *clusters) }
func inUI(t *testing.T)      { t.Helper(); leftTo(t, "ui", *pages) }
func inCrash(t *testing.T)   { t.Helper(); leftTo(t, "crash", *everyPoint) }

func leftTo(t *testing.T, target string, here bool) {
	t.Helper()
	if !here {
		t.Skipf("make %s runs it", target)
	}
}

// leaves is a test that leaves itself to a make target.
var leaves = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\) \{\n\tin(Mixed|Cluster|Crash|UI)\(t\)`)

// notRun returns the tests of source that no target of makefile runs.
func notRun(source, makefile string) (tests []string) {
	for _, m := range leaves.FindAllStringSubmatch(source, -1) {
		target := strings.ToLower(m[2])
		_, rule, _ := strings.Cut(makefile, "\n"+target+":\n")
		rule, _, _ = strings.Cut(rule, "\n\n")
		run := regexp.MustCompile(`-run '([^']*)' -` + target + " ").FindStringSubmatch(rule)
		if run == nil || !regexp.MustCompile(strings.ReplaceAll(run[1], "$$", "$")).MatchString(m[1]) {
			tests = append(tests, m[1])
		}
	}
	return tests
}

// TestLeftToMake: what a test leaves to a make target runs there.
func TestLeftToMake(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(source)
	}
	if n, calls := len(leaves.FindAllString(all.String(), -1)), len(regexp.MustCompile(`(?m)^\tin(Mixed|Cluster|Crash|UI)\(t\)$`).FindAllString(all.String(), -1)); n == 0 || n != calls {
		t.Errorf("%d tests begin with what leaves them to make, and %d say it", n, calls)
	}
	if tests := notRun(all.String(), string(makefile)); len(tests) > 0 {
		t.Errorf("no make target runs %q", tests)
	}
	if tests := notRun("func TestForgotten(t *testing.T) {\n\tinCluster(t)\n", string(makefile)); len(tests) != 1 {
		t.Error("a test that no target runs is not seen")
	}
}

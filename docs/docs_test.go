package docs

import (
	"strings"
	"testing"
)

// Every topic is there, and has what it is to have.
func TestTopics(t *testing.T) {
	for name, want := range map[string][]string{
		"schedule": {"# Five schedules", "max_unavailable"},
		"objects":  {"# Writing simulation objects\n", "## Which kind\n", "## A list to go through\n", "More of it: docs/simulation.md\n"},
		"trust":    {"## Keys and who holds them\n", "`moult trust", "More of it: docs/operations.md\n"},
	} {
		text, err := Topic(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, w := range want {
			if strings.Count(text, w) == 0 {
				t.Errorf("%s: no %q", name, w)
			}
		}
		if strings.Contains(text, "## A worked example\n") || strings.Contains(text, "## The control API\n") {
			t.Errorf("%s: has what is not its own", name)
		}
	}
	if n := len(Topics()); n != 3 {
		t.Errorf("%d topics", n)
	}
	if _, err := Topic("weather"); err == nil {
		t.Error("there is a topic that there is not")
	}
	if _, ok := section("# A\n\n## B\nb\n", "C"); ok {
		t.Error("there is a section that there is not")
	}
}

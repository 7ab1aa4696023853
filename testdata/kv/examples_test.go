package kv_test

import (
	"io/fs"
	"testing"

	"moult/simlayer/so"
	"moult/testdata/kv"
)

// Each rules file carries examples, which hold, and which reach every call.
func TestExamples(t *testing.T) {
	files, err := fs.Glob(kv.Files, "rules/*.hcl")
	if err != nil || len(files) != 4 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, name := range files {
		data, err := kv.Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := so.ParseRules(data, name)
		if err != nil {
			t.Fatal(err)
		}
		results := rules.Test()
		if err := so.Failed(results); err != nil {
			t.Error(err)
		}
		if calls := rules.Unreached(results); len(calls) > 0 {
			t.Errorf("%s: no example reaches %v", name, calls)
		}
		if !rules.Bounded() {
			t.Errorf("%s: its expressions have no bounded form", name)
		}
	}
}

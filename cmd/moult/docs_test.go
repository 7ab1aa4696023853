package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"moult/simlayer/so"
	"moult/store/bundle/build"
)

// fence is one piece of code of a document.
type fence struct{ language, name, text string }

// fences returns the code of a document: what follows the language names the file
// that it is a part of.
func fences(t *testing.T, path string) (all []fence) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```(\\w*) ?(\\S*)\n(.*?)^```$").FindAllStringSubmatch(string(data), -1) {
		all = append(all, fence{m[1], m[2], m[3]})
	}
	return all
}

// checkRules runs the examples of a rules file as `moult rules test --strict` does.
func checkRules(name, text string) error {
	rules, err := so.ParseRules([]byte(text), name)
	if err != nil {
		return err
	}
	results := rules.Test()
	if err := so.Failed(results); err != nil {
		return err
	}
	if calls := rules.Unreached(results); len(calls) > 0 {
		return fmt.Errorf("%s: no example reaches %v", name, calls)
	}
	return nil
}

// docRelease is what the pieces of a class in a document stand in.
const docRelease = `release {
  version = 2
  class "kv" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv", "--listen", "${service.api}"]
    service "api" { protocol = "http" }
    health { http = "/healthz" }
%s
  }
}
`

// TestSimulationDoc checks that what docs/simulation.md shows is real: its rules
// files parse, and hold their own examples, which reach every call; its pieces of
// releases load.
func TestSimulationDoc(t *testing.T) {
	rules, pieces := map[string]string{}, 0
	for _, f := range fences(t, "../../docs/simulation.md") {
		switch {
		case f.language == "hcl" && f.name == "class":
			pieces++
			path := filepath.Join(t.TempDir(), "upgrade.hcl")
			if err := os.WriteFile(path, fmt.Appendf(nil, docRelease, f.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := build.Load(path); err != nil {
				t.Errorf("a piece of a release: %v\n%s", err, f.text)
			}
		case f.language == "hcl" && strings.HasSuffix(f.name, ".hcl"):
			rules[f.name] += f.text
		case f.language == "hcl":
			t.Errorf("HCL that is not checked: name its file, or \"class\", after ```hcl\n%s", f.text)
		}
	}
	if len(rules) < 4 || pieces < 3 {
		t.Errorf("%d rules files and %d pieces of releases found", len(rules), pieces)
	}
	for name, text := range rules {
		if err := checkRules(name, text); err != nil {
			t.Errorf("%v", err)
		}
	}
}

// TestSimulationDocCatches shows that the check above can fail.
func TestSimulationDocCatches(t *testing.T) {
	var text string
	for _, f := range fences(t, "../../docs/simulation.md") {
		if f.name == "past-2.hcl" {
			text += f.text
		}
	}
	if err := checkRules("past-2.hcl", text); err != nil {
		t.Fatal(err)
	}
	for old, with := range map[string]string{
		`value: .body.value}"`:   `value: .body.key}"`, // an answer, and a call
		"status = 406":           "status = 407",
		`startswith("text/")`:    `startswith("image/")`,
		`- ["key", "value"]`:     `- ["key", "value", "if_revision"]`,
		`example "the list"`:     `call "POST /list" { pass = true }` + "\n" + `example "the list"`,
		`next "GET /v2/keys" {}`: `next "GET /v2/key" {}`,
		"default {":              "otherwise {",
	} {
		if checkRules("past-2.hcl", strings.Replace(text, old, with, 1)) == nil {
			t.Errorf("with %q for %q the rules pass", with, old)
		}
	}
}

// docLink is a link to a file of this repository.
var docLink = regexp.MustCompile(`\]\(([^)#\s]+)[)#]`)

// TestReleaseFileDoc checks that the release file of docs/operations.md loads, and that
// what it calls a default is one.
func TestReleaseFileDoc(t *testing.T) {
	load := func(text string) *build.Spec {
		t.Helper()
		path := filepath.Join(t.TempDir(), "upgrade.hcl")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		spec, err := build.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	found := false
	for _, f := range fences(t, "../../docs/operations.md") {
		if f.name != "upgrade.hcl" {
			continue
		}
		found = true
		short := regexp.MustCompile(`(?m)^.*# .*default.*\n`).ReplaceAllString(f.text, "")
		if whole, left := load(f.text), load(short); short == f.text || !reflect.DeepEqual(whole.Classes[0].Upgrade, left.Classes[0].Upgrade) {
			t.Errorf("without what is called a default:\n%+v\nwith it:\n%+v", left.Classes[0].Upgrade, whole.Classes[0].Upgrade)
		}
	}
	if !found {
		t.Error("there is no release file in docs/operations.md")
	}
}

// brokenLinks returns the links of a document, whose text is given, that lead nowhere.
func brokenLinks(path, text string) (broken []string) {
	for _, m := range docLink.FindAllStringSubmatch(text, -1) {
		if strings.Contains(m[1], "://") {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
			broken = append(broken, m[1])
		}
	}
	return broken
}

// TestDocLinks checks that every link of the documents leads to something.
func TestDocLinks(t *testing.T) {
	const root = "../../"
	paths, err := filepath.Glob(root + "docs/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, path := range append(paths, root+"README.md", root+"CHANGELOG.md") {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range brokenLinks(path, string(data)) {
			t.Errorf("%s: nothing is at %s", path, link)
		}
	}
	if got := brokenLinks(root+"README.md", "[a](docs/nope.md) [b](docs/operations.md#keys) [c](https://x.y/z)"); len(got) != 1 {
		t.Errorf("of a text with one link to nothing: %q", got)
	}
}

// Each picture of the documents is shown by one of them, and is not large.
func TestDocPictures(t *testing.T) {
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(data)
	}
	pictures, err := os.ReadDir("../../docs/pictures")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pictures {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 200<<10 || !strings.Contains(text.String(), "](pictures/"+p.Name()+")") {
			t.Errorf("%s: %d bytes, want at most 200 KiB and a document that shows it", p.Name(), info.Size())
		}
	}
}

// TestDependenciesDoc checks that docs/dependencies.md names every module that
// go.mod asks for itself.
func TestDependenciesDoc(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	direct, _, _ := strings.Cut(string(mod), "// indirect")
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(direct, -1) {
		name := strings.TrimPrefix(m[1], "github.com/")
		if !strings.Contains(string(doc), "`"+name) {
			t.Errorf("docs/dependencies.md does not tell what %s is for", m[1])
		}
	}
}

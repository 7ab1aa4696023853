package build

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what comes out as the expected output in testdata")

// TestSpecs compares every spec of testdata/spec with what is expected of it:
// the values, or for bad-* the problems as a person sees them.
func TestSpecs(t *testing.T) {
	paths, err := filepath.Glob("testdata/spec/*.hcl")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".hcl")
		t.Run(name, func(t *testing.T) {
			spec, err := Load(path)
			var got string
			var problems *SpecError
			switch {
			case err == nil:
				data, err := json.MarshalIndent(spec, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				got = string(data)
			case errors.As(err, &problems):
				got = err.Error()
			default:
				t.Fatal(err)
			}
			if bad := strings.HasPrefix(name, "bad-"); bad != (err != nil) {
				t.Errorf("error %v", err)
			}
			compare(t, strings.TrimSuffix(path, ".hcl")+".golden", got+"\n")
		})
	}
}

func compare(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant (%s)\n%s", got, path, want)
	}
}

func TestLoadBounds(t *testing.T) {
	inFull(t)
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none.hcl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a folder was read")
	}
	for name, text := range map[string]string{
		"long":             strings.Repeat("# comment\n", maxSpecBytes/10+1),
		"deep lists":       "x = " + strings.Repeat("[", maxSpecBytes-10),
		"deep blocks":      strings.Repeat("x {\n", maxSpecBytes/5),
		"deep texts":       "x = " + strings.Repeat(`"${`, maxSpecBytes/4),
		"deep brackets":    "x = " + strings.Repeat("(", maxSpecBytes-10),
		"many negations":   "x = " + strings.Repeat("!", maxSpecBytes-10),
		"many minuses":     "x = " + strings.Repeat("-", maxSpecBytes-10),
		"many conditions":  "x = " + strings.Repeat("a?b:", maxSpecBytes/5),
		"many sums":        "release {\n version = 1" + strings.Repeat("+1", maxSpecBytes/3) + "\n}\n",
		"many splats":      "release {\n version = a" + strings.Repeat("[*]", maxSpecBytes/4) + "\n}\n",
		"many indexes":     "release {\n version = f()" + strings.Repeat("[0]", maxSpecBytes/4) + "\n}\n",
		"many attributes":  "release {\n version = f()" + strings.Repeat(".a", maxSpecBytes/3) + "\n}\n",
		"many identifiers": "release {\n version = " + strings.Repeat("a ", maxSpecBytes/3) + "\n}\n",
		"closing":          "release {\n version = 1" + strings.Repeat("]", 1000) + strings.Repeat("[", 1000) + "\n}\n",
		"many":             "release {\n" + strings.Repeat("x {}\n", 1000) + "}\n",
		"huge":             "release {\n version = 1e999999999\n class \"a\" {\n schedule {\n max_unavailable = 1e999999999\n }\n }\n}\n",
	} {
		path := filepath.Join(dir, name+".hcl")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if n := len(err.Error()); n > maxShown*4*maxShownLine {
			t.Errorf("%s: an error of %d bytes", name, n)
		}
	}
}

// FuzzLoad looks for panics, and for specs that Load accepts and that no
// manifest can be made of.
func FuzzLoad(f *testing.F) {
	paths, err := filepath.Glob("testdata/spec/*.hcl")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > maxSpecBytes {
			return
		}
		spec, err := parse(src, "upgrade.hcl")
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without a text")
			}
			return
		}
		if err := filled(spec).Validate(); err != nil {
			t.Errorf("Load accepted what Validate refuses: %v", err)
		}
	})
}

// inFull leaves a long test out of `go test -short`, and so of make race: it has one goroutine, so a
// race detector has nothing to see.
func inFull(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and of one goroutine")
	}
}

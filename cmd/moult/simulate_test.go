package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var rewriteSchedules = flag.Bool("rewrite-schedules", false, "write the figures and pictures in docs/schedules.md anew")

// shownSchedule is a schedule of docs/schedules.md, and the figures and the picture below it.
var shownSchedule = regexp.MustCompile("(?s)```hcl\n(.*?)```\n\n```text\n(.*?)```\n\n!\\[[^]]*\\]\\((pictures/[a-z-]+\\.svg)\\)\n")

// maxPicture bounds the bytes of each picture in docs.
const maxPicture = 100_000

// TestDocSchedules runs the command of docs/schedules.md with each schedule that it shows, and
// compares what comes out.
func TestDocSchedules(t *testing.T) {
	const path = "../../docs/schedules.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	all := shownSchedule.FindAllStringSubmatch(text, -1)
	if len(all) != 5 || !strings.Contains(text, "moult simulate -f upgrade.hcl --nodes 300 --zones 3 --plot course.svg\n") {
		t.Fatalf("%d schedules with figures, want 5, and their command", len(all))
	}
	for _, shown := range all {
		spec, drawn := filepath.Join(t.TempDir(), "upgrade.hcl"), filepath.Join(t.TempDir(), "course.svg")
		if err := os.WriteFile(spec, []byte(strings.Replace(simulatedRelease, "SCHEDULE", shown[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		app := newApp(&out, &errs)
		if err := app.Run([]string{"moult", "simulate", "-f", spec, "--nodes", "300", "--zones", "3", "--plot", drawn}); err != nil {
			t.Fatalf("%s: %v", shown[1], err)
		}
		comparePicture(t, drawn, filepath.Join("../../docs", shown[3]))
		if *rewriteSchedules {
			text = strings.Replace(text, "```text\n"+shown[2]+"```", "```text\n"+out.String()+"```", 1)
		} else if out.String() != shown[2] || errs.Len() > 0 {
			t.Errorf("%s comes out as\n%s%s, and the document has\n%s", shown[1], out.String(), errs.String(), shown[2])
		}
	}
	if *rewriteSchedules {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// comparePicture compares what was drawn with what the document shows, or puts it there.
func comparePicture(t *testing.T, drawn, path string) {
	t.Helper()
	got, err := os.ReadFile(drawn)
	if err != nil || len(got) > maxPicture {
		t.Fatalf("%s: %d bytes were drawn, want at most %d: %v", path, len(got), maxPicture, err)
	}
	if *rewriteSchedules {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what is drawn (%v): go test ./cmd/moult -run TestDocSchedules -rewrite-schedules", path, err)
	}
}

// TestSimulatePlot: the picture comes beside what is printed, and one that cannot be written
// is refused before anything is.
func TestSimulatePlot(t *testing.T) {
	dir := t.TempDir()
	spec := filepath.Join(dir, "upgrade.hcl")
	if err := os.WriteFile(spec, []byte(strings.Replace(simulatedRelease, "SCHEDULE", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out, errs strings.Builder
		app := newApp(&out, &errs)
		err := app.Run(append([]string{"moult", "simulate", "-f", spec, "--nodes", "5"}, args...))
		return out.String() + errs.String(), err
	}
	plain, err := run()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.svg", "b.PNG"} {
		if out, err := run("--plot", filepath.Join(dir, name)); err != nil || out != plain {
			t.Errorf("with %s it prints\n%s%v, and without\n%s", name, out, err, plain)
		}
	}
	for name, want := range map[string]string{
		"": "ends in .svg or .png", "a.jpg": "ends in .svg or .png", "none/a.svg": "the folder of", "upgrade.hcl/a.svg": "the folder of",
	} {
		path := filepath.Join(dir, name)
		if name == "" {
			path = ""
		}
		if out, err := run("--plot", path); err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%q: %v, and it prints %q, want %q and nothing", name, err, out, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 3 {
		t.Errorf("there are %v (%v), want the spec and two pictures", left, err)
	}
}

const simulatedRelease = `release {
  version = 2
  class "kv" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    health {
      exec = ["./kv", "check"]
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
SCHEDULE
  }
}
`

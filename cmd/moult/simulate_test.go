package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var rewriteSchedules = flag.Bool("rewrite-schedules", false, "write the figures in docs/schedules.md anew")

// shownSchedule is a schedule of docs/schedules.md, and the figures below it.
var shownSchedule = regexp.MustCompile("(?s)```hcl\n(.*?)```\n\n```text\n(.*?)```")

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
	if len(all) != 5 || !strings.Contains(text, "moult simulate -f upgrade.hcl --nodes 300 --zones 3\n") {
		t.Fatalf("%d schedules with figures, want 5, and their command", len(all))
	}
	for _, shown := range all {
		spec := filepath.Join(t.TempDir(), "upgrade.hcl")
		if err := os.WriteFile(spec, []byte(strings.Replace(simulatedRelease, "SCHEDULE", shown[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		app := newApp(&out, &errs)
		if err := app.Run([]string{"moult", "simulate", "-f", spec, "--nodes", "300", "--zones", "3"}); err != nil {
			t.Fatalf("%s: %v", shown[1], err)
		}
		if *rewriteSchedules {
			text = strings.Replace(text, shown[0], "```hcl\n"+shown[1]+"```\n\n```text\n"+out.String()+"```", 1)
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

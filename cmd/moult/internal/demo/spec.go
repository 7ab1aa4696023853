package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"text/template"

	"moult/store/bundle"
	"moult/testdata/kv"
)

var specTemplate = template.Must(template.New("spec").Parse(`release {
  version = {{.Version}}
  class "kv" {
    {{if gt .Version 1}}from = {{.From}}{{end}}
    artifact {
      os   = {{printf "%q" .OS}}
      arch = {{printf "%q" .Arch}}
      path = {{printf "%q" .Exe}}
      name = "kv"
    }
    command = ["./kv", "sample-node", "{{.Version}}", "--state", "${state}", "--listen", "${service.api}"]
    service "api" {
      protocol = "http"
    }
    health {
      http             = "/healthz"
      service          = "api"
      interval         = "100ms"
      min_healthy_time = "500ms"
      healthy_deadline = "1m"
    }
    {{if gt .Version 1}}
    transform {
      exec = ["./kv", "sample-node", "{{.Version}}", "migrate"]
    }
    past {
      rules = "rules/past-{{.Version}}.hcl"
    }
    future {
      rules = "rules/future-{{.Version}}.hcl"
    }
    {{end}}
    schedule {
      strategy        = "rolling"
      max_unavailable = "20%"
      wave {
        count = 1
        soak  = "1s"
      }
      on_failure {
        max  = 1
        then = "hold"
      }
    }
  }
}
`))

// WriteSpec writes the release spec for a version whose software is this
// very binary, and the rules that go with it. It returns the spec's path.
func WriteSpec(dir, exe string, version bundle.Version) (string, error) {
	rules, err := fs.Sub(kv.Files, "rules")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "rules")); errors.Is(err, fs.ErrNotExist) {
		if err := os.CopyFS(filepath.Join(dir, "rules"), rules); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, fmt.Sprintf("upgrade-%d.hcl", version))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	err = specTemplate.Execute(f, map[string]any{
		"Version": version, "From": version - 1, "OS": runtime.GOOS, "Arch": runtime.GOARCH, "Exe": exe,
	})
	return path, errors.Join(err, f.Close())
}

package build

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"moult/store/bundle"
	"moult/store/bundle/hclguard"
	"moult/store/durable"
)

// Spec is a release as its author described it, checked as far as that goes
// without looking at the files that it names.
type Spec struct {
	Version       bundle.Version
	FinalizeAfter bundle.Duration // 0: the operator finalizes it
	Classes       []ClassSpec     // sorted by name
	Agent         *AgentSpec      `json:",omitempty"` // nil: the agents stay

	dir   string // paths are relative to it
	files map[string]*hcl.File
	at    hcl.Range // of the version
}

// ClassSpec is one class upgrade.
type ClassSpec struct {
	Name bundle.Class
	// Upgrade is as it will stand in the manifest, but without Artifacts and
	// without the blobs of rules and modules: Build fills them in.
	Upgrade      bundle.ClassUpgrade
	Artifacts    []ArtifactSpec // sorted by platform
	Past, Future ObjectSpec

	programs []programSpec
	from     hcl.Range
}

// ArtifactSpec says where the software for a platform lies.
type ArtifactSpec struct {
	bundle.Platform
	Path string // relative to the spec's folder, or absolute
	Name string // of a single file in the artifact; empty: its own

	at hcl.Range
}

// ObjectSpec names the file of a simulation's rules or wasm module, or nothing
// where Path is empty.
type ObjectSpec struct {
	Path string

	at hcl.Range
}

// programSpec is the first argument of an argv, which must be in the artifacts
// where it is a path.
type programSpec struct {
	name string
	at   hcl.Range
}

// SpecError is what is wrong with a spec, or with the files that it names: all
// that was found, each with its place in the spec.
type SpecError struct {
	Problems hcl.Diagnostics
	files    map[string]*hcl.File
}

// Error prints every problem, up to a bound, with the line that it is about.
func (e *SpecError) Error() string {
	var buf bytes.Buffer
	w := hcl.NewDiagnosticTextWriter(&buf, e.files, 0, false)
	shown := e.Problems[:min(len(e.Problems), maxShown)]
	if err := w.WriteDiagnostics(shown); err != nil {
		return e.Problems.Error()
	}
	if more := len(e.Problems) - len(shown); more > 0 {
		fmt.Fprintf(&buf, "and %d more\n", more)
	}
	var out strings.Builder
	for line := range strings.Lines(strings.TrimSpace(buf.String())) {
		if len(line) > maxShownLine {
			line = strings.ToValidUTF8(line[:maxShownLine], "") + "…\n"
		}
		out.WriteString(line)
	}
	return out.String()
}

// Load reads a spec. An error in its text is a *SpecError.
func Load(path string) (*Spec, error) {
	src, err := durable.ReadFile(path, maxSpecBytes)
	if err != nil {
		return nil, fmt.Errorf("read release spec: %w", err)
	}
	return parse(src, path)
}

func parse(src []byte, path string) (*Spec, error) {
	if diags := hclguard.Check(src, path); diags.HasErrors() {
		return nil, specError(diags, map[string]*hcl.File{path: {Bytes: src}})
	}
	parser := hclparse.NewParser()
	file, diags := parser.ParseHCL(src, path)
	if diags.HasErrors() {
		return nil, specError(diags, parser.Files())
	}
	spec := &Spec{dir: filepath.Dir(path), files: parser.Files()}
	var top fileSchema
	d := decoder{src: src, diags: gohcl.DecodeBody(file.Body, nil, &top)}
	switch {
	case d.diags.HasErrors():
		// The shape is wrong: values would only add errors that follow from it,
		// such as a missing command where there is a "comand".
	case top.Release == nil:
		d.fail(file.Body.MissingItemRange(), "Missing release block", `A spec says what to do in one block: release { … }.`)
	default:
		d.release(top.Release, spec)
	}
	if d.diags.HasErrors() {
		return nil, specError(d.diags, spec.files)
	}
	return spec, nil
}

// specError sorts the problems by place: gohcl finds them in any order.
func specError(diags hcl.Diagnostics, files map[string]*hcl.File) *SpecError {
	start := func(d *hcl.Diagnostic) hcl.Pos {
		if d.Subject == nil {
			return hcl.Pos{}
		}
		return d.Subject.Start
	}
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		if a, b := start(a), start(b); a.Byte != b.Byte {
			return a.Byte - b.Byte
		}
		return bytes.Compare([]byte(a.Summary+a.Detail), []byte(b.Summary+b.Detail))
	})
	return &SpecError{Problems: diags, files: files}
}

package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"moult/store/bundle"
	"moult/store/bundle/archive"
)

const agentBlock = `
  agent {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "build/moult-amd64"
    }
    artifact {
      os   = "linux"
      arch = "arm64"
      path = "build/moult-arm64"
    }
  }
}
`

// compiled builds a small program for a platform.
func compiled(t testing.TB, dir string, p bundle.Platform) []byte {
	t.Helper()
	write(t, dir, "src/main.go", []byte("package main\n\nfunc main() {}\n"), 0o644)
	out := filepath.Join(dir, "src", "program-"+p.OS+"-"+p.Arch)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, "main.go")
	cmd.Dir = filepath.Join(dir, "src")
	cmd.Env = append(os.Environ(), "GOOS="+p.OS, "GOARCH="+p.Arch, "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// elfHeader is the header of an executable for a machine, without anything in it.
func elfHeader(machine uint16) []byte {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(h[16:], 2) // an executable
	binary.LittleEndian.PutUint16(h[18:], machine)
	binary.LittleEndian.PutUint32(h[20:], 1)
	binary.LittleEndian.PutUint16(h[52:], 64)
	binary.LittleEndian.PutUint16(h[58:], 64)
	return h
}

const amd64Machine, arm64Machine = 62, 183

func TestBuildAgent(t *testing.T) {
	dir := source(t, 1)
	edit(t, dir, "  }\n}\n", "  }\n"+agentBlock)
	write(t, dir, "build/moult-amd64", elfHeader(amd64Machine), 0o755)
	write(t, dir, "build/moult-arm64", elfHeader(arm64Machine), 0o755)
	result, b := mustBuild(t, dir, newFolder(t))
	m := b.Head()
	if m.Format != bundle.FormatAgent || len(m.Agent.Artifacts) != 2 || m.Agent.MaxUnavailable != "1" || len(result.Artifacts) != 4 {
		t.Fatalf("format %d, agent %+v, %d artifacts", m.Format, m.Agent, len(result.Artifacts))
	}
	art, ok := m.Agent.Artifact(bundle.Platform{OS: "linux", Arch: "arm64"})
	if !ok || art.Program != bundle.Digest(sha256.Sum256(elfHeader(arm64Machine))) {
		t.Errorf("artifact %+v", art)
	}
	var tar bytes.Buffer
	for _, c := range art.Chunks {
		r, ok := b.Blob(c.Digest)
		if !ok {
			t.Fatal("a chunk is missing")
		}
		if _, err := tar.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(archive.Extract(&tar, root), root.Close()); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(root.Name(), bundle.AgentProgram)); err != nil || !bytes.Equal(data, elfHeader(arm64Machine)) {
		t.Errorf("unpacked: %d bytes, %v", len(data), err)
	}
}

// A release may have nothing but an agent.
func TestBuildAgentAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "build/moult-amd64", elfHeader(amd64Machine), 0o755)
	write(t, dir, "build/moult-arm64", elfHeader(arm64Machine), 0o755)
	write(t, dir, "upgrade.hcl", []byte("release {\n  version = 1"+agentBlock), 0o644)
	if _, b := mustBuild(t, dir, newFolder(t)); len(b.Head().Classes) != 0 || len(b.Head().Software()) != 2 {
		t.Errorf("%+v", b.Head())
	}
}

// What is no program for its platform is refused before anything is signed.
func TestBuildAgentHeader(t *testing.T) {
	script := []byte("#!/bin/sh\nexit 0\n")
	for want, make := range map[string]func(path string){
		"it is not an ELF executable":          func(path string) { write(t, path, "build/moult-amd64", script, 0o755) },
		"it is for EM_AARCH64, want EM_X86_64": func(path string) { write(t, path, "build/moult-amd64", elfHeader(arm64Machine), 0o755) },
		"it may not be executed":               func(path string) { write(t, path, "build/moult-amd64", elfHeader(amd64Machine), 0o644) },
		"it is no plain file":                  func(path string) { write(t, path, "build/moult-amd64/moult", elfHeader(amd64Machine), 0o755) },
		"There is nothing at":                  func(string) {},
	} {
		dir := t.TempDir()
		write(t, dir, "build/moult-arm64", elfHeader(arm64Machine), 0o755)
		write(t, dir, "upgrade.hcl", []byte("release {\n  version = 1"+agentBlock), 0o644)
		make(dir)
		f := newFolder(t)
		_, err := Build(t.Context(), load(t, dir), f, filepath.Join(dir, "r.moult"), Options{})
		if problems, ok := errors.AsType[*SpecError](err); !ok || !strings.Contains(strings.Join(strings.Fields(err.Error()), " "), want) {
			t.Errorf("want %q, got %v (%v)", want, err, problems)
		}
		if head := f.Current().Head(); head != 0 {
			t.Errorf("%s: release %d was signed", want, head)
		}
	}
}

// The headers that compilers write are known.
func TestCheckHeader(t *testing.T) {
	dir := t.TempDir()
	here := bundle.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH}
	write(t, dir, "here", compiled(t, dir, here), 0o755)
	for _, p := range []bundle.Platform{{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm64"}, {OS: "darwin", Arch: "arm64"}, {OS: "windows", Arch: "amd64"}} {
		if problem := checkHeader(filepath.Join(dir, "here"), p); (problem == "") != (p == here) {
			t.Errorf("%s: %q", p, problem)
		}
	}
	if problem := checkHeader(filepath.Join(dir, "here"), bundle.Platform{OS: here.OS, Arch: "unknown"}); problem != "" {
		t.Error(problem)
	}
}

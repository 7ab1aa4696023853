//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// debianPackage is one release of software in Debian's pool, whose files never change, and
// are removed one day.
type debianPackage struct{ file, sha256 string }

const aptHelper = "/usr/lib/apt/apt-helper" // what apt fetches files with

// unpack returns a folder for each release, with the program of its Debian package. It
// asks the mirror that this machine's apt asks, of which the whole pool is there, not only
// what is of this machine's suite.
func (p realProgram) unpack(t *testing.T) (folders [2]string) {
	t.Helper()
	if reason := noDebian(runtime.GOOS+"/"+runtime.GOARCH, "/etc/os-release"); reason != "" {
		t.Skipf("%s is from Debian: %s", p.name, reason)
	}
	for _, tool := range []string{"apt-get", "dpkg-deb", aptHelper} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is from Debian: %v", p.name, err)
		}
	}
	out := p.apt(t, "apt-get", "--print-uris", "download", p.name)
	_, uri, ok := strings.Cut(out, "'")
	uri, _, _ = strings.Cut(uri, "'")
	pool := strings.LastIndex(uri, "/")
	if !ok || pool < 0 {
		t.Fatalf("apt-get does not say where it has %s from: %q", p.name, out)
	}
	for i, release := range p.debian {
		dir := t.TempDir()
		archive := filepath.Join(dir, release.file)
		p.apt(t, aptHelper, "download-file", uri[:pool+1]+release.file, archive, "SHA256:"+release.sha256)
		p.apt(t, "dpkg-deb", "-x", archive, dir)
		folders[i] = filepath.Join(dir, "usr", "bin")
	}
	return folders
}

// apt runs a tool of Debian's in an empty folder, and returns what it prints.
func (p realProgram) apt(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = t.TempDir() // apt-get names nothing that is there already
	var printed strings.Builder
	cmd.Stdout = &printed
	cmd.Stderr = &printed
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		if words := cannotReach(printed.String()); words != "" {
			t.Skipf("%s cannot be fetched here (%s):\n%s", p.name, words, printed.String())
		}
		if name == aptHelper && removed(printed.String()) {
			t.Skipf("%s: Debian's pool has this release no more, so the test needs newer ones:\n%s", p.name, printed.String())
		}
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, printed.String())
	}
	return printed.String()
}

// removed reports whether apt says that a mirror, which answers, has a file no more.
func removed(out string) bool {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "E: Failed to fetch ") && strings.Contains(line, "  404  Not Found") {
			return true
		}
	}
	return false
}

// noDebian returns why the packages cannot be used on a platform with such an os-release.
func noDebian(platform, release string) string {
	if platform != "linux/amd64" {
		return "the packages are for linux/amd64, and this is " + platform
	}
	data, err := os.ReadFile(release)
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(data)) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "ID="); ok && id != "debian" {
			return "this is " + id
		}
	}
	return ""
}

// TestRealNoDebian shows on which machines packages are left alone.
func TestRealNoDebian(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ platform, release, want string }{
		{"linux/amd64", "NAME=\"Debian GNU/Linux\"\nID=debian\n", ""},
		{"linux/arm64", "ID=debian\n", "this is linux/arm64"},
		{"darwin/amd64", "ID=debian\n", "this is darwin/amd64"},
		{"linux/amd64", "ID_LIKE=debian\nID=ubuntu\n", "this is ubuntu"},
		{"linux/amd64", "", "no such file"},
	} {
		path := filepath.Join(dir, "os-release")
		if err := os.WriteFile(path, []byte(c.release), 0o644); err != nil {
			t.Fatal(err)
		}
		if c.release == "" {
			path += "-not"
		}
		if got := noDebian(c.platform, path); got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%s with %q: %q, want %q", c.platform, c.release, got, c.want)
		}
	}
}

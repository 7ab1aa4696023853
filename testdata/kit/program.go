package kit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// built has what was built in this process, by what it was built from.
var built sync.Map // of func() ([]byte, error)

// Program puts the program of a package of this module at out, such as
// "testdata/line/cmd/line-v1". It is built once in a test process, and small: each
// release of it is cut, compressed, sent and hashed.
func Program(t testing.TB, out, pkg string) {
	t.Helper()
	put(t, out, pkg, func(to string) *exec.Cmd {
		return exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", to, "moult/"+pkg)
	})
}

// Guest puts the wasm module of a package below testdata/wasm at out, such as
// "kvnames". It is built once in a test process.
func Guest(t testing.TB, out, name string) {
	t.Helper()
	put(t, out, "guest "+name, func(to string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", to, "moult/testdata/wasm/"+name)
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=-buildvcs=false")
		return cmd
	})
}

// GuestC is Guest for the module in C of a folder below testdata/wasm, and reports
// why there is none: it needs clang and lld.
func GuestC(t testing.TB, out, name string) error {
	t.Helper()
	for _, tool := range []string{"clang", "wasm-ld"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: install clang and lld", err)
		}
	}
	put(t, out, "guest in C "+name, func(to string) *exec.Cmd {
		cmd := exec.Command("clang", "--target=wasm32", "-O2", "-mbulk-memory", "-nostdlib", "-Wl,--no-entry", "-Wall", "-Werror", "-o", to, "names.c")
		_, here, _, _ := runtime.Caller(0)
		cmd.Dir = filepath.Join(filepath.Dir(here), "..", "wasm", name)
		return cmd
	})
	return nil
}

// put writes what build makes, executable, to out.
func put(t testing.TB, out, what string, build func(to string) *exec.Cmd) {
	t.Helper()
	once, _ := built.LoadOrStore(what, sync.OnceValues(func() ([]byte, error) {
		dir, err := os.MkdirTemp("", "moult-built-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		to := filepath.Join(dir, "program")
		if text, err := build(to).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(text))
		}
		return os.ReadFile(to)
	}))
	data, err := once.(func() ([]byte, error))()
	if err == nil {
		err = os.WriteFile(out, data, 0o755)
	}
	if err != nil {
		t.Fatalf("build %s: %v", what, err)
	}
}

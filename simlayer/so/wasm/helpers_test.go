package wasm

import (
	"context"
	"log/slog"
	"os"
	"testing"
)

func testConfig(t testing.TB) Config {
	t.Helper()
	return Config{
		Name: "the object", From: 1, To: 2, CacheDir: cacheDir, Limits: DefaultLimits(),
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Logf("%s", p)
	return len(p), nil
}

// open opens an object that is closed at the end of the test.
func open(t testing.TB, module []byte, change func(*Config)) *Object {
	t.Helper()
	config := testConfig(t)
	if change != nil {
		change(&config)
	}
	o, err := Open(context.Background(), module, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return o
}

// cacheDir is one for all tests of a run: compiling a guest in Go takes seconds.
var cacheDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "moult-wasm-*")
	if err != nil {
		panic(err)
	}
	cacheDir = dir
	status := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(status)
}

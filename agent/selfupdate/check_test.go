package selfupdate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childVar has this test's program be a build that is checked, and misbehaves.
const childVar = "MOULT_TEST_CHECKED"

func TestMain(m *testing.M) {
	switch os.Getenv(childVar) {
	case "":
		os.Exit(m.Run())
	case "hangs":
		select {}
	case "floods":
		for range 2 * checkOutput / 100 {
			fmt.Println(strings.Repeat("x", 100))
		}
	case "eats memory":
		var all [][]byte
		for range 4 * checkMemory >> 20 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
		fmt.Println(len(all))
	case "says nonsense":
		fmt.Println("fine")
	case "fails":
		fmt.Fprintln(os.Stderr, "why it fails")
		os.Exit(1)
	case "is told of the manager":
		fmt.Println(os.Getenv("NOTIFY_SOCKET"), os.Getenv(variable))
	}
}

// TestReportIsBounded: a build that is checked costs no more than the bounds say.
func TestReportIsBounded(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	t.Setenv("NOTIFY_SOCKET", "/run/manager")
	t.Setenv(variable, "confirmed")
	cases := map[string]string{
		"hangs": "did not end", "floods": "wrote more than", "says nonsense": `"fine`,
		"fails": "why it fails", "is told of the manager": `" \n"`,
	}
	if runtime.GOOS == "linux" {
		cases["eats memory"] = "ended with"
	}
	for kind, want := range cases {
		t.Setenv(childVar, kind)
		ctx, cancel := context.WithCancel(t.Context())
		if kind == "hangs" {
			ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond) // in place of checkTime
		}
		_, err := openFolder(t.TempDir()).report(ctx, Build{Path: self}, t.TempDir(), nil)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestUnfit: a build is condemned for what it does, not for what the machine or the agent does.
func TestUnfit(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want bool
	}{
		{t.Context(), errors.New("checked, it ended with exit status 1"), true},
		{t.Context(), &os.PathError{Op: "fork/exec", Err: syscall.ENOEXEC}, true},
		{t.Context(), &os.PathError{Op: "fork/exec", Err: syscall.EAGAIN}, false},
		{t.Context(), fmt.Errorf("checked, it ended with %w", &os.PathError{Op: "fork/exec", Err: syscall.ETXTBSY}), false},
		{ended, errors.New("checked, it did not end within 1m0s"), false},
	} {
		if err := unfit(c.ctx, Build{}, c.err); errors.Is(err, ErrUnfit) != c.want {
			t.Errorf("%v: %v", c.err, err)
		}
	}
}

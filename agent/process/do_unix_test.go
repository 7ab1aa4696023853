//go:build unix

package process

import (
	"strings"
	"testing"
)

// TestDo: what a program prints, and what it leaves behind, is no failure of it; its exit is.
func TestDo(t *testing.T) {
	spec := Spec{Dir: t.TempDir()}
	sh := func(script string) error { return spec.Do(t.Context(), []string{"/bin/sh", "-c", script}) }
	if err := sh("head -c 3000000 /dev/zero"); err != nil {
		t.Errorf("one that prints much: %v", err)
	}
	if err := sh("sleep 3 & exit 0"); err != nil {
		t.Errorf("one that leaves a child behind, which has its output: %v", err)
	}
	if err := sh("echo not now; sleep 3 & exit 7"); err == nil || !strings.Contains(err.Error(), "exit status 7: not now") {
		t.Errorf("one that fails: %v", err)
	}
}

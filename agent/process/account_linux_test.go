package process

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"moult/agent/account"
)

// Software of another user can say that it is ready, is found by its mark, taken over,
// and stopped.
func TestSoftwareOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start another user's process")
	}
	t.Parallel()
	who, err := account.Resolve("65534", "65534", nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := newSpec(t, "notify")
	spec.Health.HTTP, spec.Health.Notify = "", true
	dir, err := os.MkdirTemp("", "moult-user-") // through which that user may pass
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	spec.Argv, spec.Dir, spec.NotifySocket, spec.Account = []string{"/proc/self/exe"}, "/", filepath.Join(dir, "n"), who
	spec.Marker = "user-of-" + filepath.Base(dir)
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if found, err := FindOrphans(spec.Marker); err != nil || len(found) != 0 {
		t.Errorf("by the agent's user alone: %v, %v", found, err)
	}
	if found, err := FindOrphans(spec.Marker, who.Users()...); err != nil || len(found) != 1 || found[0] != p.Handle() {
		t.Errorf("by its own user: %v, %v", found, err)
	}
	// Another start stops what carries the mark, whoever's of the two it is.
	spec.NotifySocket = filepath.Join(dir, "m")
	q, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, q)
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Error("the first goes on")
	}
}

// What ran as a user who is the node's no more, and which no record names, ends when other
// software begins.
func TestSoftwareOfFormerUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start another user's process")
	}
	t.Parallel()
	former, err := account.Resolve("12345", "12345", nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := newSpec(t, "hang")
	spec.Argv, spec.Dir, spec.Account = []string{"/proc/self/exe"}, "/", former
	spec.Marker = "former-of-" + t.TempDir()
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, p)
	if spec.Account, err = account.Resolve("65534", "65534", nil); err != nil {
		t.Fatal(err)
	}
	spec.Former = []int{former.UID}
	q, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, q)
	select {
	case <-p.Done():
	case <-time.After(time.Minute):
		t.Error("software of the former user goes on")
	}
}

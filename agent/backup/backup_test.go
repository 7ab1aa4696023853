package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"moult/agent/control"
	"moult/agent/home"
	"moult/agent/upgrade"
)

// TestOneAtATime: while the state is copied for one backup, another is refused, and leaves nothing;
// the first is made, and then a third.
func TestOneAtATime(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, home.IdentityFile), []byte("key"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var one sync.Mutex
	s := Source{About: About{Version: 1}, Data: data, Store: func(to string) error { return os.Mkdir(to, 0o700) }, One: &one}
	second := filepath.Join(dir, "second")
	copied := 0
	s.State = func(ctx context.Context, to string) error {
		other := s
		other.State = func(context.Context, string) error { t.Error("a second backup copies the state"); return nil }
		err := Make(ctx, other, second)
		if e, ok := errors.AsType[*control.Error](err); !ok || e.Kind != control.KindRefused || e.Hint == "" {
			t.Errorf("a second backup: %v", err)
		}
		if left, _ := filepath.Glob(second + "*"); len(left) != 0 {
			t.Errorf("it leaves %v", left)
		}
		copied++
		return os.WriteFile(filepath.Join(to, "kept"), []byte("kept"), 0o600)
	}
	if err := Make(t.Context(), s, filepath.Join(dir, "first")); err != nil || copied != 1 {
		t.Fatalf("copied %d times, %v", copied, err)
	}
	s.State = nil
	if err := Make(t.Context(), s, second); err != nil {
		t.Errorf("after the first: %v", err)
	}
}

func TestWhole(t *testing.T) {
	for _, c := range []struct {
		phase     upgrade.Phase
		regaining bool
		whole     bool
	}{
		{"", false, true}, {upgrade.Current, false, true}, {upgrade.Settled, false, true}, {upgrade.Current, true, false},
		{upgrade.Draining, false, false}, {upgrade.Transforming, false, false}, {upgrade.Starting, false, false},
		{upgrade.Probing, false, false}, {upgrade.RollingBack, false, false},
	} {
		err := Whole(c.phase, c.regaining, "hint")
		if e, ok := errors.AsType[*control.Error](err); (err == nil) != c.whole || err != nil && (!ok || e.Kind != control.KindRefused) {
			t.Errorf("%q, %v: %v", c.phase, c.regaining, err)
		}
	}
}

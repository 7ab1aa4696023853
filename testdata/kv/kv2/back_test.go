package kv2

import (
	"errors"
	"path/filepath"
	"testing"

	"moult/testdata/kv/kv1"
)

// Back and forth loses nothing: neither what version 1 cannot hold, nor what was written there.
func TestBackAndForth(t *testing.T) {
	two, one, rest, again := filepath.Join(t.TempDir(), "2"), filepath.Join(t.TempDir(), "1"), t.TempDir(), filepath.Join(t.TempDir(), "2")
	s, err := OpenStore(two, true)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key, value, kind string) {
		if _, err := s.Put(key, value, kind, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		put("same", "as ever", defaultType)
		put("changed", "before", defaultType)
		put("gone", "x", defaultType)
		put("written anew", "x", defaultType)
	}
	put("bytes", "/w==", "application/octet-stream")
	put("page", "<p>", "text/html")
	for _, key := range []string{"gone", "written anew"} {
		if _, err := s.Delete(key); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Back(t.Context(), two, one, rest); n != 6 || err != nil {
		t.Fatalf("back: %d objects, %v", n, err)
	}
	old, err := kv1.OpenStore(one, true)
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := old.Keys(); err != nil || len(keys) != 2 {
		t.Errorf("version 1 has %q, %v", keys, err)
	}
	for key, value := range map[string]string{"changed": "since", "written anew": "y", "new": "z"} {
		if err := old.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := MigrateWith(t.Context(), one, again, "", "", rest); n != 7 || err != nil {
		t.Fatalf("forward again: %d objects, %v", n, err)
	}
	if s, err = OpenStore(again, true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []Object{
		{"same", "as ever", 3, defaultType}, {"changed", "since", 4, defaultType}, {"written anew", "y", 5, defaultType},
		{"new", "z", 1, defaultType}, {"bytes", "/w==", 1, "application/octet-stream"}, {"page", "<p>", 1, "text/html"},
	} {
		if got, err := s.Get(want.Key); got != want || err != nil {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	if _, err := s.Get("gone"); !errors.Is(err, errDeleted) {
		t.Errorf("what was deleted: %v", err)
	}
	if _, err := MigrateWith(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "2"), "", "", rest); err == nil {
		t.Error("keys that version 1 has lost are not missed")
	}
}

package kv2

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"moult/testdata/kv/kv1"
)

func TestMigrateWithTypes(t *testing.T) {
	old, future, past, to := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	store, err := kv1.OpenStore(old, true)
	if err != nil {
		t.Fatal(err)
	}
	note := func(key, value, kind string) {
		data, err := json.Marshal(map[string]string{hash("earlier"): "image/gif", hash(value): kind})
		if err == nil {
			err = os.WriteFile(filepath.Join(future, typesPrefix+hash(key)), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range map[string]string{"image": "AP8=", "page": "<p>", "replaced": "text", "plain": "text"} {
		if err := store.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	note("image", "AP8=", "Image/PNG")
	note("page", "<p>", "text/html")
	note("replaced", "AP8=", "image/png")
	if n, err := MigrateWith(t.Context(), old, to, future, past, ""); n != 4 || err != nil {
		t.Fatalf("%d objects, %v", n, err)
	}
	got := map[string]string{}
	if err := ReadState(to, func(r Record) error { got[r.Key] = r.ContentType; return nil }); err != nil {
		t.Fatal(err)
	}
	for key, kind := range map[string]string{"image": "image/png", "page": "text/html", "replaced": "text/plain", "plain": "text/plain"} {
		if got[key] != kind {
			t.Errorf("%s has type %q, want %q", key, got[key], kind)
		}
	}
	shown, err := os.ReadDir(past)
	if err != nil || len(shown) != 1 || shown[0].Name() != shownPrefix+hash("image") {
		t.Errorf("the past object shows %v, %v; want the image alone", shown, err)
	}

	note("image", "AP8=", "image") // no type
	if _, err := MigrateWith(t.Context(), old, to, future, past, ""); err == nil {
		t.Error("a state that is damaged is migrated all the same")
	}
}

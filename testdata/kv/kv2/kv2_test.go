package kv2

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"moult/testdata/kv/internal/node"
	"moult/testdata/kv/kv1"
)

func start(t *testing.T, c node.Config) *httptest.Server {
	t.Helper()
	c.NoSync = true
	if c.State == "" {
		c.State = t.TempDir()
	}
	h, err := Open(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// call returns "status body".
func call(t *testing.T, method, url, body string) string {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status[:3] + " " + strings.TrimSpace(string(got))
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestProtocol(t *testing.T) {
	srv := start(t, node.Config{})
	u := srv.URL + "/v2/keys/a%2F%C3%A4%20%25"
	want(t, call(t, "GET", srv.URL+"/v2/keys", ""), `200 {"keys":[]}`)
	want(t, call(t, "GET", u, ""), `404 {"error":"not found"}`)
	want(t, call(t, "PUT", u, `{"value":"1"}`), `200 {"key":"a/ä %","revision":1}`)
	want(t, call(t, "GET", u, ""), `200 {"key":"a/ä %","value":"1","revision":1,"content_type":"text/plain"}`)
	want(t, call(t, "PUT", u, `{"value":"AP8=","content_type":"Image/PNG"}`), `200 {"key":"a/ä %","revision":2}`)
	want(t, call(t, "GET", u, ""), `200 {"key":"a/ä %","value":"AP8=","revision":2,"content_type":"image/png"}`)
	want(t, call(t, "PUT", u, `{"value":"x","if_revision":1}`), `409 {"error":"if_revision is 1, but \"a/ä %\" is at revision 2","revision":2}`)
	want(t, call(t, "PUT", u, `{"value":"x","if_revision":0}`), `409 {"error":"if_revision is 0, but \"a/ä %\" is at revision 2","revision":2}`)
	want(t, call(t, "PUT", u, `{"value":"x","if_revision":2}`), `200 {"key":"a/ä %","revision":3}`)
	want(t, call(t, "GET", srv.URL+"/v2/keys", ""), `200 {"keys":["a/ä %"]}`)
	want(t, call(t, "DELETE", u, ""), `200 {"key":"a/ä %","revision":4}`)
	want(t, call(t, "DELETE", u, ""), `404 {"error":"not found: it was deleted"}`)
	want(t, call(t, "GET", u, ""), `404 {"error":"not found: it was deleted"}`)
	want(t, call(t, "GET", srv.URL+"/v2/keys", ""), `200 {"keys":[]}`)
	want(t, call(t, "PUT", u, `{"value":"x","if_revision":4}`), `409 {"error":"if_revision is 4, but \"a/ä %\" does not exist","revision":0}`)
	want(t, call(t, "PUT", u, `{"value":""}`), `200 {"key":"a/ä %","revision":5}`)
	want(t, call(t, "DELETE", srv.URL+"/v2/keys/z", ""), `404 {"error":"not found"}`)
}

func TestRefusals(t *testing.T) {
	srv := start(t, node.Config{})
	big := base64.StdEncoding.EncodeToString(make([]byte, node.MaxValue+1))
	for name, c := range map[string]struct{ key, body string }{
		"long key":      {strings.Repeat("k", node.MaxKey+1), `{"value":""}`},
		"no value":      {"k", `{}`},
		"no JSON":       {"k", ``},
		"unknown field": {"k", `{"value":"","revision":1}`},
		"no base64":     {"k", `{"value":"?","content_type":"image/png"}`},
		"no type":       {"k", `{"value":"","content_type":"png"}`},
		"long type":     {"k", `{"value":"","content_type":"text/` + strings.Repeat("x", maxType) + `"}`},
		"large value":   {"k", `{"value":"` + big + `","content_type":"image/png"}`},
	} {
		if got := call(t, "PUT", srv.URL+"/v2/keys/"+c.key, c.body); !strings.HasPrefix(got, `400 {"error":"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
	want(t, call(t, "GET", srv.URL+"/v2/keys", ""), `200 {"keys":[]}`)
}

// Of many writers on one condition, exactly one gets through each revision.
func TestConditionsUnderContention(t *testing.T) {
	s, err := OpenStore(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put("k", "", "text/plain", nil); err != nil {
		t.Fatal(err)
	}
	const writers, rounds = 8, 20
	var won [rounds + 2]int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for condition := int64(1); condition <= rounds; {
				rev, err := s.Put("k", fmt.Sprint(w), "text/plain", &condition)
				var c *conflictError
				switch {
				case errors.As(err, &c):
					condition = c.Revision
				case err != nil:
					t.Error(err)
					return
				default:
					mu.Lock()
					won[rev]++
					mu.Unlock()
					condition = rev
				}
			}
		})
	}
	wg.Wait()
	for rev := 2; rev <= rounds+1; rev++ {
		if won[rev] != 1 {
			t.Errorf("revision %d was given %d times", rev, won[rev])
		}
	}
}

func TestStateOutlivesTheNode(t *testing.T) {
	c := node.Config{State: t.TempDir()}
	srv := start(t, c)
	for _, k := range []string{"a", "b"} {
		call(t, "PUT", srv.URL+"/v2/keys/"+k, `{"value":"AP8=","content_type":"image/png"}`)
	}
	call(t, "DELETE", srv.URL+"/v2/keys/b", "")
	srv.Close()
	srv = start(t, c)
	want(t, call(t, "GET", srv.URL+"/v2/keys", ""), `200 {"keys":["a"]}`)
	want(t, call(t, "GET", srv.URL+"/v2/keys/a", ""), `200 {"key":"a","value":"AP8=","revision":1,"content_type":"image/png"}`)
	want(t, call(t, "PUT", srv.URL+"/v2/keys/b", `{"value":""}`), `200 {"key":"b","revision":3}`)
}

func TestReadRepair(t *testing.T) {
	a := start(t, node.Config{})
	b := start(t, node.Config{Peers: []string{a.Listener.Addr().String()}})
	for range 3 {
		call(t, "PUT", a.URL+"/v2/keys/k%2Fk", `{"value":"AP8=","content_type":"image/png"}`)
	}
	object := `200 {"key":"k/k","value":"AP8=","revision":3,"content_type":"image/png"}`
	want(t, call(t, "GET", b.URL+"/v2/keys/k%2Fk", ""), object)
	want(t, call(t, "GET", b.URL+"/v2/keys", ""), `200 {"keys":["k/k"]}`)
	want(t, call(t, "DELETE", b.URL+"/v2/keys/k%2Fk", ""), `200 {"key":"k/k","revision":4}`)
	// A key that was deleted here does not come back from a peer.
	want(t, call(t, "GET", b.URL+"/v2/keys/k%2Fk", ""), `404 {"error":"not found: it was deleted"}`)
	want(t, call(t, "GET", b.URL+"/v2/keys/other", ""), `404 {"error":"not found"}`)
	a.Close()
	if got := call(t, "GET", b.URL+"/v2/keys/third", ""); !strings.HasPrefix(got, "503 ") {
		t.Errorf("a miss that is not certain: %s", got)
	}
}

func TestAdoptUnknownRevision(t *testing.T) {
	s, err := OpenStore(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Adopt(Object{Key: "k", Value: "v", ContentType: "text/plain"})
	if err != nil || o.Revision != 1 {
		t.Errorf("Adopt: %+v, %v", o, err)
	}
	o, err = s.Adopt(Object{Key: "k", Value: "other", Revision: 9, ContentType: "text/plain"})
	if err != nil || o.Value != "v" {
		t.Errorf("Adopt over a value: %+v, %v", o, err)
	}
}

func TestMigrate(t *testing.T) {
	old, fresh := t.TempDir(), t.TempDir()
	v1, err := kv1.OpenStore(old, true)
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{"A", "a", "a/b", "empty", "ä"}
	for _, k := range keys {
		if err := v1.Set(k, strings.TrimPrefix("value of "+k, "value of empty")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(old, "keys", "raw"), []byte{0, 0xff}, 0o644); err != nil {
		t.Fatal(err)
	}
	// The second run finds all that the first has made, and then some.
	for range 2 {
		if n, err := Migrate(t.Context(), old, fresh); err != nil || n != len(keys)+1 {
			t.Fatalf("Migrate: %d, %v", n, err)
		}
		if err := os.WriteFile(filepath.Join(fresh, "objects", "left-over"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenStore(fresh, true); err == nil {
		t.Error("a foreign file below objects was taken")
	}
	if err := os.Remove(filepath.Join(fresh, "objects", "left-over")); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(fresh, true)
	if err != nil {
		t.Fatal(err)
	}
	want(t, fmt.Sprint(s.Keys()), "[A a a/b empty raw ä]")
	for _, k := range keys {
		want1 := Object{Key: k, Value: strings.TrimPrefix("value of "+k, "value of empty"), Revision: 1, ContentType: "text/plain"}
		if o, err := s.Get(k); err != nil || o != want1 {
			t.Errorf("%+v, %v; want %+v", o, err, want1)
		}
	}
	if o, err := s.Get("raw"); err != nil || o.Value != "AP8=" || text(o.ContentType) {
		t.Errorf("bytes that are no text: %+v, %v", o, err)
	}
}

func TestMigrateInterrupted(t *testing.T) {
	old, fresh := t.TempDir(), t.TempDir()
	v1, err := kv1.OpenStore(old, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := v1.Set(fmt.Sprint(i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	ctx := &countdown{Context: t.Context(), left: 5}
	if n, err := Migrate(ctx, old, fresh); err == nil || n != 5 {
		t.Fatalf("interrupted: %d, %v", n, err)
	}
	if _, err := OpenStore(fresh, true); err == nil || !strings.Contains(err.Error(), "run kv-v2 migrate again") {
		t.Errorf("half a state was opened: %v", err)
	}
	if _, err := OpenStore(old, true); err == nil || !strings.Contains(err.Error(), "run kv-v2 migrate") {
		t.Errorf("a state of version 1 was opened: %v", err)
	}
	if n, err := Migrate(t.Context(), old, fresh); err != nil || n != 10 {
		t.Errorf("again: %d, %v", n, err)
	}
	if _, err := Migrate(t.Context(), filepath.Join(old, "nowhere"), t.TempDir()); err == nil {
		t.Error("a missing state was migrated")
	}
	if n, err := Migrate(t.Context(), t.TempDir(), t.TempDir()); err != nil || n != 0 {
		t.Errorf("an empty folder: %d, %v", n, err)
	}
	if _, err := Migrate(t.Context(), fresh, t.TempDir()); err == nil {
		t.Error("a state of version 2 was migrated as one of version 1")
	}
	if _, err := kv1.OpenStore(fresh, true); err == nil {
		t.Error("version 1 opened a state of version 2")
	}
}

// countdown is a context that ends when it has been asked some times.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestDamageIsFoundAtStart(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put("k", "v", "text/plain", nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "objects", objectPath("k"))
	for name, content := range map[string]string{
		"cut short":   `{"key":"k","val`,
		"other key":   `{"key":"l","value":"v","revision":1,"content_type":"text/plain"}`,
		"no revision": `{"key":"k","value":"v","content_type":"text/plain"}`,
		"bad type":    `{"key":"k","value":"v","revision":1,"content_type":"text"}`,
		"bad base64":  `{"key":"k","value":"?","revision":1,"content_type":"a/b"}`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(dir, true); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

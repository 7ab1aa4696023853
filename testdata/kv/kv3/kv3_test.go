package kv3

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"moult/testdata/kv/internal/node"
	"moult/testdata/kv/kv2"
)

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

// What version 2 knew, version 3 says in its own words, and goes on from it.
func TestMigrateAndGoOn(t *testing.T) {
	old, fresh := t.TempDir(), t.TempDir()
	v2, err := kv2.OpenStore(old, true)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, k := range []string{"a/b", "gone"} {
			if _, err := v2.Put(k, "AP8=", "image/png", nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := v2.Delete("gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(old, true); err == nil || !strings.Contains(err.Error(), "kv-v3 migrate") {
		t.Errorf("a state of version 2 was opened: %v", err)
	}
	for range 2 {
		if n, err := Migrate(t.Context(), old, fresh); err != nil || n != 2 {
			t.Fatalf("Migrate: %d, %v", n, err)
		}
	}
	h, err := Open(node.Config{State: fresh, NoSync: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "", "", `200 {"keys":["a/b"]}`},
		{"GET", "/a%2Fb", "", `200 {"key":"a/b","data":"AP8=","revision":3,"content_type":"image/png"}`},
		{"GET", "/gone", "", `404 {"error":"not found: it was deleted"}`},
		{"PUT", "/gone", `{"data":"x"}`, `200 {"key":"gone","revision":5}`},
		{"PUT", "/a%2Fb", `{"data":"x","if_revision":2}`, `409 {"error":"if_revision is 2, but \"a/b\" is at revision 3","revision":3}`},
		{"PUT", "/a%2Fb", `{"data":"x","if_revision":3}`, `200 {"key":"a/b","revision":4}`},
		{"PUT", "/a%2Fb", `{"value":"x"}`, `400 {"error":"the body: json: unknown field \"value\""}`},
		{"PUT", "/a%2Fb", `{}`, `400 {"error":"the body has no \"data\""}`},
	} {
		if got := call(t, c.method, srv.URL+"/v3/entries"+c.path, c.body); got != c.want {
			t.Errorf("%s %s %s\ngot  %s\nwant %s", c.method, c.path, c.body, got, c.want)
		}
	}
	if n, err := Migrate(t.Context(), t.TempDir(), t.TempDir()); err != nil || n != 0 {
		t.Errorf("an empty folder: %d, %v", n, err)
	}
	if _, err := Migrate(t.Context(), fresh, t.TempDir()); err == nil {
		t.Error("a state of version 3 was migrated as one of version 2")
	}
}

func TestReadRepair(t *testing.T) {
	serve := func(peers ...string) *httptest.Server {
		h, err := Open(node.Config{State: t.TempDir(), NoSync: true, Peers: peers}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return srv
	}
	a := serve()
	b := serve(a.Listener.Addr().String())
	call(t, "PUT", a.URL+"/v3/entries/k", `{"data":"1"}`)
	want := `200 {"key":"k","data":"1","revision":1,"content_type":"text/plain"}`
	if got := call(t, "GET", b.URL+"/v3/entries/k", ""); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

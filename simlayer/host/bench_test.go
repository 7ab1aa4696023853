//go:build unix

package host

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/simlayer/stream"
	"moult/store/bundle"
)

// BenchmarkHosted compares calls through the object host (rules that rename a
// field both ways, JSON of 1 KiB) with direct ones, interleaved, on one
// connection.
func BenchmarkHosted(b *testing.B) {
	ln, err := stream.Listen(b.Context(), anyPort)
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		_, _ = w.Write(data)
	})}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	h, err := Start(Config{Dir: b.TempDir(), Services: api})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	path := filepath.Join(b.TempDir(), "rules.hcl")
	const rename = `
call "PUT /{key}" {
  next "PUT /{key}" {
    body = ".body | . + {new: .old} | del(.old)"
  }
  response "200" {
    body = ".body | . + {old: .new} | del(.new)"
  }
}
default {
  pass = true
}`
	if err := os.WriteFile(path, []byte(rename), 0o600); err != nil {
		b.Fatal(err)
	}
	addr := ln.Addr().String()
	objects := Objects{Native: 2, Node: map[string]string{"api": addr}, List: []Object{{Version: 1, To: 2, Kind: KindRules, Path: path}}}
	if _, err := h.Set(b.Context(), objects); err != nil {
		b.Fatal(err)
	}
	body := func(field string) string {
		return fmt.Sprintf(`{"other":%q,%q:1}`, strings.Repeat("x", 1000), field)
	}
	direct, hosted := client(b, addr, false), client(b, h.Addrs(bundle.Version(1))["api"], false)
	var times [2]time.Duration
	for b.Loop() {
		for i, c := range []*http.Client{direct, hosted} {
			began := time.Now()
			got, _, err := do(c, "PUT", "/k", body("old"))
			times[i] += time.Since(began)
			if err != nil || !strings.HasPrefix(got, "200 ") {
				b.Fatal(got, err)
			}
		}
	}
	b.ReportMetric(float64(times[0].Nanoseconds())/float64(b.N), "ns/direct")
	b.ReportMetric(float64(times[1].Nanoseconds())/float64(b.N), "ns/hosted")
	b.ReportMetric(float64(times[1])/float64(times[0]), "hosted/direct")
}

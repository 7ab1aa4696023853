package wasm

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"moult/simlayer/so"
)

// benchRules does what the guests do.
const benchRules = `
call "PUT /v1/{key}" {
  next "PUT /v2/{key}" {
    body = ".body | (.title = .name) | del(.name)"
  }
  response "200" {
    body = ".body | (.name = .title) | del(.title)"
  }
}
default {
  pass = true
}
`

// echo answers with the body that it gets.
var echo = roundTripper(func(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: r.Body, ContentLength: r.ContentLength, Request: r}, nil
})

func benchBody() string {
	var b strings.Builder
	b.WriteString(`{"id":12345,"name":"a name of usual length"`)
	for i := 0; b.Len() < 990; i++ {
		fmt.Fprintf(&b, `,"field_%02d":"value number %d"`, i, i)
	}
	b.WriteString("}")
	return b.String()
}

func benchObject(b *testing.B, o so.Object, path string) {
	body := benchBody()
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		r := httptest.NewRequest("PUT", path, strings.NewReader(body))
		resp, err := o.Answer(r, echo)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 900 || resp.StatusCode != 200 {
			b.Fatalf("%d %d bytes: %v", resp.StatusCode, n, err)
		}
		resp.Body.Close()
	}
}

// BenchmarkRename renames a field of a JSON body of 1 KiB both ways, by rules and
// by guests, these with fuel and as they came.
func BenchmarkRename(b *testing.B) {
	rules, err := so.ParseRules([]byte(benchRules), "bench.hcl")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("compatible", func(b *testing.B) { benchObject(b, so.Compatible(), "/v1/bench") })
	b.Run("rules", func(b *testing.B) { benchObject(b, rules, "/v1/bench") })
	for _, g := range []struct {
		name, path string
		open       func(testing.TB, func(*Config)) *Object
		module     func() ([]byte, error)
	}{
		{"c", "/v1/bench", openC, cGuest},
		{"go-scanner", "/scan/v1/bench", openGo, goGuest},
		{"go-json", "/v1/bench", openGo, goGuest},
	} {
		b.Run(g.name+"/fuel", func(b *testing.B) { benchObject(b, g.open(b, nil), g.path) })
		b.Run(g.name+"/plain", func(b *testing.B) {
			o := g.open(b, nil)
			module, err := g.module()
			if err != nil {
				b.Fatal(err)
			}
			unmeter(b, o, module)
			benchObject(b, o, g.path)
		})
	}
}

// unmeter gives o the module without fuel.
func unmeter(b *testing.B, o *Object, module []byte) {
	b.Helper()
	ctx := context.Background()
	o.closeRuntime(ctx)
	o.idle = nil
	if err := o.compileWith(ctx, module, nil); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStart makes new instances, and compiles modules with and without the
// cache on disk.
func BenchmarkStart(b *testing.B) {
	for _, g := range []struct {
		name   string
		open   func(testing.TB, func(*Config)) *Object
		module func() ([]byte, error)
	}{{"c", openC, cGuest}, {"go", openGo, goGuest}} {
		o := g.open(b, nil)
		b.Run(g.name+"/instance", func(b *testing.B) {
			for b.Loop() {
				in, err := o.start(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				in.close()
			}
		})
		module, err := g.module()
		if err != nil {
			b.Fatal(err)
		}
		for _, dir := range []string{"", b.TempDir()} {
			name := map[bool]string{true: "/compile", false: "/cached"}[dir == ""]
			b.Run(g.name+name, func(b *testing.B) {
				for b.Loop() {
					config := testConfig(b)
					config.CacheDir = dir
					o, err := Open(context.Background(), module, config)
					if err != nil {
						b.Fatal(err)
					}
					if err := o.Close(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

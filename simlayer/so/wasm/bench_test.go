package wasm

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

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

// contender is one way to do the same.
type contender struct {
	name, path string
	object     so.Object
	times      []float64 // of a call, in ns
}

// round makes some calls and takes their time.
func (c *contender) round(b *testing.B, body string) {
	const calls = 20
	start := time.Now()
	for range calls {
		resp, err := c.object.Answer(httptest.NewRequest("PUT", c.path, strings.NewReader(body)), echo)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 900 || resp.StatusCode != 200 {
			b.Fatalf("%s: %d %d bytes: %v", c.name, resp.StatusCode, n, err)
		}
		resp.Body.Close()
	}
	c.times = append(c.times, float64(time.Since(start).Nanoseconds())/calls)
}

func (c *contender) median() float64 {
	slices.Sort(c.times)
	return c.times[len(c.times)/2]
}

// BenchmarkRename renames a field of a JSON body of 1 KiB both ways, by rules and
// by guests, these with fuel and as they came. All take turns, and what is told are
// medians without what a call costs that nobody changes, in ns and against rules.
func BenchmarkRename(b *testing.B) {
	rules, err := so.ParseRules([]byte(benchRules), "bench.hcl")
	if err != nil {
		b.Fatal(err)
	}
	all := []*contender{{name: "none", path: "/v1/bench", object: so.Compatible()}, {name: "rules", path: "/v1/bench", object: rules}}
	for _, g := range []struct {
		name, path string
		open       func(testing.TB, func(*Config)) *Object
		module     func() ([]byte, error)
	}{
		{"c", "/v1/bench", openC, cGuest},
		{"go-scanner", "/scan/v1/bench", openGo, goGuest},
		{"go-json", "/v1/bench", openGo, goGuest},
	} {
		module, err := g.module()
		if err != nil {
			b.Logf("without %s: %v", g.name, err)
			continue
		}
		plain := g.open(b, nil)
		unmeter(b, plain, module)
		all = append(all, &contender{name: g.name, path: g.path, object: g.open(b, nil)},
			&contender{name: g.name + "-plain", path: g.path, object: plain})
	}
	body := benchBody()
	for b.Loop() {
		for _, c := range all {
			c.round(b, body)
		}
	}
	base, unit := all[0].median(), 0.0
	for _, c := range all[1:] {
		own := c.median() - base
		if c.name == "rules" {
			unit = own
		}
		b.ReportMetric(own, c.name+"-ns")
		b.ReportMetric(own/unit, c.name+"/rules")
	}
	b.ReportMetric(0, "ns/op") // of no meaning here
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

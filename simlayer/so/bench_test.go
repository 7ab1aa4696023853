package so

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// kilobyte is a body of 1 KiB with one field to rename and others around it.
func kilobyte(field string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `{"key":"user/4711","revision":12345678901234567890,"tags":["a","b",{"c":null}],%q:"`, field)
	b.WriteString(strings.Repeat("lorem ipsum dolor sit amet, ", 32))
	b.WriteString(`","content_type":"text/plain","meta":{"owner":"me","size":1.50}}`)
	return []byte(b.String())
}

// mappings rename a field, in the forms that authors use.
var mappings = map[string]struct{ there, back string }{
	"object": {
		"{key: .body.key, data: .body.value, revision: .body.revision, content_type: .body.content_type}",
		"{key: .body.key, value: .body.data, revision: .body.revision, content_type: .body.content_type}"},
	"rename": {
		`.body | with_entries(.key |= ({value: "data", data: "value"}[.] // .))`,
		`.body | with_entries(.key |= ({value: "data", data: "value"}[.] // .))`},
	"del": {`.body | . + {data: .value} | del(.value)`, `.body | . + {value: .data} | del(.data)`},
}

// both ways: the request's body and the response's.
func mapBoth(tb testing.TB, r *Rules, body, answer []byte) {
	req := &http.Request{Method: "PUT", URL: mustURL, Header: http.Header{"Content-Type": {"application/json"}}, Proto: "HTTP/1.1"}
	restoreRequestBody(req, body)
	resp, err := r.Answer(req, roundTripper(func(r *http.Request) (*http.Response, error) {
		out := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Request: r, Body: http.NoBody}
		restore := &http.Request{Header: http.Header{}}
		restoreRequestBody(restore, answer)
		out.Body = restore.Body
		return out, nil
	}))
	if err != nil {
		tb.Fatal(err)
	}
	resp.Body.Close()
}

var mustURL = httptest.NewRequest("PUT", "/v2/keys/a", nil).URL

func benchRules(tb testing.TB, there, back string) (fast, general *Rules) {
	const text = `
call "PUT /v2/keys/{key}" {
  next "PUT /v3/entries/{key}" {
    body = <<-JQ
      %s
    JQ
  }
  response "2xx" {
    body = <<-JQ
      %s
    JQ
  }
}
default { pass = true }
`
	parse := func(text string) *Rules {
		r, err := ParseRules([]byte(text), "bench.hcl")
		if err != nil {
			tb.Fatal(err)
		}
		return r
	}
	// A variable has no bounded form.
	fast, general = parse(fmt.Sprintf(text, there, back)), parse(fmt.Sprintf(text, there+" | . as $x | $x", back+" | . as $x | $x"))
	if !fast.Bounded() || general.Bounded() {
		tb.Fatalf("no bounded form: %v; or all is: %v", fast.Unbounded(), general.Bounded())
	}
	return fast, general
}

// BenchmarkMapping maps 1 KiB both ways: one mapping is a request's body read and
// written anew, or a response's, with all that is around it. gojq does the same in the
// same run; the figures are medians.
func BenchmarkMapping(b *testing.B) {
	for name, m := range mappings {
		b.Run(name, func(b *testing.B) {
			fast, general := benchRules(b, m.there, m.back)
			there, back := kilobyte("value"), kilobyte("data")
			var bounded, gojq []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				mapBoth(b, fast, there, back)
				middle := time.Now()
				mapBoth(b, general, there, back)
				gojq = append(gojq, time.Since(middle))
				bounded = append(bounded, middle.Sub(start))
			}
			b.ReportMetric(median(bounded)/2, "ns/mapping")
			b.ReportMetric(median(gojq)/2, "ns/gojq-mapping")
			b.ReportMetric(median(gojq)/median(bounded), "gojq/bounded")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// median leaves out what other processes did to some of the runs.
func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds())
}

func BenchmarkBounded(b *testing.B) {
	m := mappings["object"]
	fast, _ := benchRules(b, m.there, m.back)
	there, back := kilobyte("value"), kilobyte("data")
	b.ReportAllocs()
	for b.Loop() {
		mapBoth(b, fast, there, back)
	}
}

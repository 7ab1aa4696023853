package speed

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"moult/simlayer/host"
	"moult/simlayer/so"
	"moult/simlayer/so/wasm"
	"moult/testdata/kit"
)

// rulesFor renames one field of a body, there and back.
func rulesFor(there, back string) string {
	return fmt.Sprintf(`
call "PUT /v1/{key}" {
  next "PUT /v2/{key}" {
    body = %q
  }
  response "200" {
    body = %q
  }
}
default {
  pass = true
}
`, there, back)
}

var (
	// renameRules have a bounded form: they run in the agent's own process.
	renameRules = rulesFor(".body | . + {title: .name} | del(.name)", ".body | . + {name: .title} | del(.title)")
	// generalRules do the same, in a form that needs all of jq.
	generalRules = rulesFor(
		`.body | with_entries(if .key == "name" then .key = "title" else . end)`,
		`.body | with_entries(if .key == "title" then .key = "name" else . end)`)
)

// kilobyte is JSON of 1 KiB with one field that is to be renamed.
func kilobyte(field string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"id":12345,%q:"a name of usual length"`, field)
	for i := 0; b.Len() < 990; i++ {
		fmt.Fprintf(&b, `,"field_%02d":"value number %d"`, i, i)
	}
	b.WriteString("}")
	return b.String()
}

// put is a call with such a body.
func put(path, field string) string {
	body := kilobyte(field)
	return fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

// guests builds the sample guests in C and Go. Without a compiler for C there is
// none of that, and why.
func guests(t testing.TB) (c, golang string, noC error) {
	dir := t.TempDir()
	golang = filepath.Join(dir, "go.wasm")
	kit.Guest(t, golang, "kvnames")
	c = filepath.Join(dir, "c.wasm")
	if err := kit.GuestC(t, c, "cnames"); err != nil {
		return "", golang, err
	}
	return c, golang, nil
}

// hosted starts agents whose object for version 1 is in the object host.
func (r *rig) hosted(past func(name string, p *process, pids ...int) *way) {
	cGuest, goGuest, noC := guests(r.t)
	write := func(name, text string) string {
		path := filepath.Join(r.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
		return path
	}
	add := func(file string, o host.Object, ways ...*way) {
		dir := r.t.TempDir()
		o.Version, o.To = 1, 2
		if o.Kind == host.KindWasm {
			o.State = r.t.TempDir()
		}
		p := r.layer(file, role{Kind: "relay", Backend: "unix:" + r.sock, Dir: dir, Object: o})
		hosts := p.ask(order{Do: "processes"}).Processes
		for _, w := range ways {
			full := past(w.name, p, hosts...)
			if w.put != "" {
				full.put = w.put
			}
			r.json = append(r.json, full)
		}
	}
	add("hosted-rules", host.Object{Kind: host.KindRules, Path: write("bounded.hcl", renameRules)}, &way{name: wayHostRules})
	add("hosted-general", host.Object{Kind: host.KindRules, Path: write("general.hcl", generalRules)}, &way{name: wayHostGeneral})
	if noC != nil {
		r.skip(wayHostC, noC)
	} else {
		add("hosted-c", host.Object{Kind: host.KindWasm, Path: cGuest}, &way{name: wayHostC})
	}
	add("hosted-go", host.Object{Kind: host.KindWasm, Path: goGuest}, &way{name: wayHostScan, put: "/scan/v1/bench"}, &way{name: wayHostGo})
}

// same makes one call on each way of r.json and checks that the caller gets back
// what he sent.
func (r *rig) same() {
	for _, w := range r.json {
		req, err := http.NewRequest("PUT", "http://"+w.addr+w.put, strings.NewReader(kilobyte(w.field)))
		if err != nil {
			r.t.Fatal(err)
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			r.t.Fatalf("%s: %v", w.name, err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !sameJSON(string(data), kilobyte(w.field)) {
			r.t.Fatalf("%s: %s %.2000s %v", w.name, resp.Status, data, err)
		}
	}
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

// mapper is one object that renames, without any network.
type mapper struct {
	name, path string
	object     so.Object
	times      []float64 // of a call, in µs
}

// mappings measures what an object takes for a call by itself, in turns: a body
// mapped there and one back.
func mappings(t testing.TB, rounds int) (all []*mapper, left []string) {
	parse := func(text string, bounded bool) *so.Rules {
		rules, err := so.ParseRules([]byte(text), "speed.hcl")
		if err != nil {
			t.Fatal(err)
		}
		if rules.Bounded() != bounded {
			t.Fatalf("bounded is %t of %s", rules.Bounded(), text)
		}
		return rules
	}
	all = []*mapper{
		{name: mapNone, path: "/v1/bench", object: so.Compatible()},
		{name: mapRules, path: "/v1/bench", object: parse(renameRules, true)},
		{name: mapGeneral, path: "/v1/bench", object: parse(generalRules, false)},
	}
	cGuest, goGuest, noC := guests(t)
	cache := t.TempDir()
	open := func(path string) so.Object {
		module, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		o, err := wasm.Open(context.Background(), module, wasm.Config{
			Name: "the object", From: 1, To: 2, CacheDir: cache, Limits: wasm.DefaultLimits(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := o.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return o
	}
	if noC != nil {
		left = append(left, fmt.Sprintf("%s is not measured: %v", mapC, noC))
	} else {
		all = append(all, &mapper{name: mapC, path: "/v1/bench", object: open(cGuest)})
	}
	g := open(goGuest)
	all = append(all, &mapper{name: mapScan, path: "/scan/v1/bench", object: g}, &mapper{name: mapGo, path: "/v1/bench", object: g})
	body := kilobyte("name")
	for range rounds {
		for _, m := range all {
			m.round(t, body)
		}
	}
	return all, left
}

// round makes some calls to a node that answers with the body that it gets.
func (m *mapper) round(t testing.TB, body string) {
	const calls = 20
	began := time.Now()
	for range calls {
		resp, err := m.object.Answer(httptest.NewRequest("PUT", m.path, strings.NewReader(body)), echo)
		if err != nil {
			t.Fatal(m.name, ": ", err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 900 || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %d bytes: %v", m.name, resp.Status, n, err)
		}
		resp.Body.Close()
	}
	m.times = append(m.times, float64(time.Since(began).Nanoseconds())/1e3/calls)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var echo = roundTripper(func(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{}, Body: r.Body, ContentLength: r.ContentLength, Request: r}, nil
})

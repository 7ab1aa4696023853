package kv_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/store/bundle/build"
	"moult/testdata/kv"
	"moult/testdata/kv/internal/node"
	"moult/testdata/kv/kv1"
	"moult/testdata/kv/kv2"
	"moult/testdata/kv/kv3"
	"moult/testdata/kv/kvload"
)

const newest = 3

// rules parses a rules file as edit leaves it.
func rules(t *testing.T, kind string, release int, edit func(string) string) so.Object {
	t.Helper()
	name := fmt.Sprintf("rules/%s-%d.hcl", kind, release)
	data, err := kv.Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := so.ParseRules([]byte(edit(string(data))), name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// objects returns what answers callers of other versions at a node of native.
func objects(t *testing.T, native int, edit func(string) string) map[bundle.Version]so.Object {
	t.Helper()
	all := map[bundle.Version]so.Object{}
	for v := 1; v < native; v++ {
		all[bundle.Version(v)] = rules(t, "past", v+1, edit)
	}
	for v := native + 1; v <= newest; v++ {
		all[bundle.Version(v)] = rules(t, "future", v, edit)
	}
	return all
}

// to sends calls to a real node.
type to struct{ host string }

func (n to) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host, r.RequestURI = "http", n.host, "", ""
	return http.DefaultTransport.RoundTrip(r)
}

// serveChain answers the callers of one version by a node.
func serveChain(c *so.Chain, host string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := c.Answer(r, to{host})
		if err != nil {
			so.AsRefusal(err).Write(w)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
}

// peer is a node of some version with an address for each version of callers.
type peer struct {
	native int
	addr   map[int]string // host:port by the caller's version
}

func (p peer) url(caller int) string { return "http://" + p.addr[caller] }

// start starts a node on a state; proxy may be nil.
func start(t *testing.T, native int, state string, proxy *url.URL, peers ...string) peer {
	t.Helper()
	return startWith(t, func(rules string) string { return rules }, native, state, proxy, peers...)
}

// startWith is start with rules as edit leaves them.
func startWith(t *testing.T, edit func(string) string, native int, state string, proxy *url.URL, peers ...string) peer {
	t.Helper()
	open := map[int]func(node.Config, *slog.Logger) (http.Handler, error){1: kv1.Open, 2: kv2.Open, 3: kv3.Open}[native]
	h, err := open(node.Config{State: state, NoSync: true, Peers: peers, Proxy: proxy}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	p := peer{native: native, addr: map[int]string{}}
	host := srv.Listener.Addr().String()
	for v, chain := range so.Chains(bundle.Version(native), objects(t, native, edit)) {
		p.addr[int(v)] = host
		if int(v) != native {
			front := httptest.NewServer(serveChain(chain, host))
			t.Cleanup(front.Close)
			p.addr[int(v)] = front.Listener.Addr().String()
		}
	}
	if len(p.addr) != newest {
		t.Fatalf("a node of version %d has addresses for %v", native, p.addr)
	}
	return p
}

// client of a version for a peer.
func client(t *testing.T, caller int, p peer) *kvload.Client {
	t.Helper()
	c, err := kvload.NewClient(caller, p.url(caller), http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pairs calls f for every caller and node of the three versions.
func pairs(t *testing.T, f func(t *testing.T, caller int, p peer)) {
	for native := 1; native <= newest; native++ {
		for caller := 1; caller <= newest; caller++ {
			t.Run(fmt.Sprintf("v%d at v%d", caller, native), func(t *testing.T) {
				f(t, caller, start(t, native, t.TempDir(), nil))
			})
		}
	}
}

var text = kvload.Value{Data: []byte("\"a\\/b\" <&> é✓ \u2028\x00 1e400\n"), Type: "text/plain"}

// What both versions can say comes through without a change.
func TestTextBetweenAllVersions(t *testing.T) {
	keys := []string{"k", "K", "a/b", "a b", "?k=1&l=%2F#", "100%", "é✓", "+", "a..b", "~", ";", `"`, `\`, "/", "//", strings.Repeat("x", 80)}
	pairs(t, func(t *testing.T, caller int, p peer) {
		c, native := client(t, caller, p), client(t, p.native, p)
		for _, key := range keys {
			for round, writer := range []*kvload.Client{c, native} {
				v := text
				v.Data = append([]byte(key+fmt.Sprint(round)), text.Data...)
				revision, err := writer.Put(t.Context(), key, v, nil)
				if err != nil {
					t.Fatalf("put %q, round %d: %v", key, round, err)
				}
				if p.native == 1 && revision != 0 {
					t.Errorf("put %q: a node without revisions says %d", key, revision)
				}
				for _, reader := range []*kvload.Client{c, native} {
					got, err := reader.Get(t.Context(), key)
					if err != nil || string(got.Data) != string(v.Data) || got.Type != "text/plain" {
						t.Errorf("get %q, round %d: %q (%s), %v", key, round, got.Data, got.Type, err)
					}
				}
			}
		}
		got, err := c.List(t.Context())
		want, err2 := native.List(t.Context())
		if err != nil || err2 != nil || len(got) != len(keys) || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("list: %q, %v; want %q, %v", got, err, want, err2)
		}
		if _, err := c.Get(t.Context(), "nothing"); status(err) != "404 " {
			t.Errorf("a key that is not there: %v", err)
		}
	})
}

// status returns the status and the refusal of an answer that is an error.
func status(err error) string {
	s, ok := err.(*kvload.StatusError)
	if !ok {
		return fmt.Sprint(err)
	}
	return fmt.Sprint(s.Status, " ", s.Refusal)
}

// What a version has and the other has not is refused with a reason, and
// changes nothing.
func TestWhatOnlyNewVersionsHave(t *testing.T) {
	pairs(t, func(t *testing.T, caller int, p peer) {
		if caller == 1 {
			return
		}
		c, native := client(t, caller, p), client(t, p.native, p)
		want := func(what string, err error, new string) {
			t.Helper()
			if p.native == 1 {
				new = "501 denied"
			}
			if got := status(err); got != new {
				t.Errorf("%s: %s, want %s (%v)", what, got, new, err)
			}
		}
		if _, err := c.Put(t.Context(), "k", text, nil); err != nil {
			t.Fatal(err)
		}
		one, five, zero := int64(1), int64(5), int64(0)
		binary := kvload.Value{Data: []byte{0, 0xff, 0xfe}, Type: "image/png"}
		html := kvload.Value{Data: []byte("<p>"), Type: "text/html"}

		_, err := c.Put(t.Context(), "k", kvload.Value{Data: []byte("x"), Type: "text/plain"}, &five)
		want("a condition that does not hold", err, "409 ")
		_, err = c.Put(t.Context(), "k", kvload.Value{Data: []byte("x"), Type: "text/plain"}, &zero)
		want("a condition on no revision", err, "409 ")
		if got, err := native.Get(t.Context(), "k"); err != nil || string(got.Data) != string(text.Data) {
			t.Errorf("after refused writes: %q, %v", got.Data, err)
		}
		_, err = c.Put(t.Context(), "k", text, &one)
		want("a condition that holds", err, "<nil>")
		_, err = c.Put(t.Context(), "b", binary, nil)
		want("a binary value", err, "<nil>")
		_, err = c.Put(t.Context(), "h", html, nil)
		want("another type of text", err, "<nil>")
		want("delete", c.Delete(t.Context(), "k"), "<nil>")

		if p.native == 1 {
			keys, err := native.List(t.Context())
			if err != nil || fmt.Sprint(keys) != "[k]" {
				t.Errorf("after refused calls the node has %q, %v", keys, err)
			}
			if got, err := c.Get(t.Context(), "k"); err != nil || got.Revision != 0 || got.Type != "text/plain" {
				t.Errorf("%+v, %v; want no revision", got, err)
			}
			return
		}
		if got, err := c.Get(t.Context(), "b"); err != nil || string(got.Data) != string(binary.Data) || got.Type != "image/png" || got.Revision != 1 {
			t.Errorf("binary: %+v, %v", got, err)
		}
		if got, err := c.Get(t.Context(), "h"); err != nil || got.Type != "text/html" {
			t.Errorf("html: %+v, %v", got, err)
		}
		old := client(t, 1, p)
		if _, err := old.Get(t.Context(), "b"); status(err) != "406 denied" {
			t.Errorf("a binary value for version 1: %v", err)
		}
		if got, err := old.Get(t.Context(), "h"); err != nil || string(got.Data) != "<p>" {
			t.Errorf("text of another type for version 1: %+v, %v", got, err)
		}
		if _, err := old.Get(t.Context(), "k"); status(err) != "404 " {
			t.Errorf("a deleted key for version 1: %v", err)
		}
		if keys, err := old.List(t.Context()); err != nil || fmt.Sprint(keys) != "[b h]" {
			t.Errorf("list for version 1: %q, %v", keys, err)
		}
		if _, err := old.Put(t.Context(), "b", text, nil); err != nil {
			t.Errorf("version 1 writes over a binary value: %v", err)
		}
		if got, err := c.Get(t.Context(), "b"); err != nil || got.Type != "text/plain" || got.Revision != 2 {
			t.Errorf("after that: %+v, %v", got, err)
		}
	})
}

// Calls that no client of kvload makes: malformed ones are refused, however
// the caller and the node differ, and none of them writes.
func TestMalformedCalls(t *testing.T) {
	path := map[int]string{2: "/v2/keys/k", 3: "/v3/entries/k"}
	value := map[int]string{2: "value", 3: "data"}
	pairs(t, func(t *testing.T, caller int, p peer) {
		calls := [][3]string{{"GET", "/nothing", ""}, {"POST", "/healthz", ""}}
		if caller == 1 {
			calls = append(calls, [][3]string{
				{"GET", "/get", ""}, {"GET", "/get?k=", ""}, {"GET", "/get?k=..", ""},
				{"GET", "/get?k=" + strings.Repeat("k", 81), ""},
				{"PUT", "/set", ""}, {"PUT", "/set", "{"}, {"PUT", "/set", "[]"}, {"PUT", "/set", `"k"`},
				{"PUT", "/set", `{"key":"k"}`}, {"PUT", "/set", `{"value":"v"}`}, {"PUT", "/set", `{"key":"","value":"v"}`},
				{"PUT", "/set", `{"key":"k","value":1}`}, {"PUT", "/set", `{"key":"k","value":null}`},
				{"PUT", "/set", `{"key":"k","value":"v","if_revision":1}`},
				{"PUT", "/set", `{"key":"k","value":"v","content_type":"image/png"}`},
			}...)
		} else {
			k, v := path[caller], value[caller]
			other := value[5-caller]
			calls = append(calls, [][3]string{
				{"PUT", k, ""}, {"PUT", k, "{"}, {"PUT", k, "[]"}, {"PUT", k, "{}"},
				{"PUT", k, `{"` + v + `":1}`}, {"PUT", k, `{"` + v + `":null}`},
				{"PUT", k, `{"` + other + `":"v"}`}, {"PUT", k, `{"` + v + `":"v","` + other + `":"w"}`},
				{"PUT", k, `{"` + v + `":"v","revision":1}`},
				{"PUT", k, `{"` + v + `":"v","if_revision":"1"}`},
				{"PUT", k, `{"` + v + `":"v","content_type":"png"}`},
				{"PUT", k, `{"` + v + `":"?","content_type":"image/png"}`},
				{"PUT", k + strings.Repeat("k", 80), `{"` + v + `":"v"}`},
			}...)
		}
		for _, c := range calls {
			r, err := http.NewRequestWithContext(t.Context(), c[0], p.url(caller)+c[1], strings.NewReader(c[2]))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode < 400 {
				t.Errorf("%s %s %s: %s %s (%v)", c[0], c[1], c[2], resp.Status, body, err)
			}
		}
		if keys, err := client(t, p.native, p).List(t.Context()); err != nil || len(keys) > 0 {
			t.Errorf("malformed calls wrote %q (%v)", keys, err)
		}
	})
}

// egress is the part of an HTTP proxy that matters here: what a node of one
// version sends to a peer's public address reaches the address for its version.
func egress(t *testing.T, caller int, public map[string]peer) *url.URL {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, ok := public[r.URL.Host]
		if !ok {
			http.Error(w, "no such peer", http.StatusBadGateway)
			return
		}
		serveChain(new(so.Chain), p.addr[caller]).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Nodes of any two versions repair each other's misses.
func TestReadRepairBetweenVersions(t *testing.T) {
	binary := kvload.Value{Data: []byte{0, 0xff}, Type: "image/png"}
	for from := 1; from <= newest; from++ {
		for at := 1; at <= newest; at++ {
			t.Run(fmt.Sprintf("v%d asks v%d", at, from), func(t *testing.T) {
				owner := start(t, from, t.TempDir(), nil)
				name := "owner.test:80"
				asker := start(t, at, t.TempDir(), egress(t, at, map[string]peer{name: owner}), name)
				writer, reader := client(t, from, owner), client(t, at, asker)
				if _, err := writer.Put(t.Context(), "a/b %", text, nil); err != nil {
					t.Fatal(err)
				}
				got, err := reader.Get(t.Context(), "a/b %")
				if err != nil || string(got.Data) != string(text.Data) || at > 1 && got.Revision != 1 {
					t.Errorf("%+v, %v", got, err)
				}
				if _, err := reader.Get(t.Context(), "nowhere"); status(err) != "404 " {
					t.Errorf("a key that nobody has: %v", err)
				}
				if from == 1 {
					return
				}
				if _, err := writer.Put(t.Context(), "b", binary, nil); err != nil {
					t.Fatal(err)
				}
				got, err = reader.Get(t.Context(), "b")
				if at == 1 {
					// The peer may not give it to version 1, for which it is not there.
					if status(err) != "404 " {
						t.Errorf("a binary value: %+v, %v", got, err)
					}
				} else if err != nil || string(got.Data) != string(binary.Data) {
					t.Errorf("a binary value: %+v, %v", got, err)
				}
			})
		}
	}
}

// The whole way of a state: written by clients of all versions at v1, migrated
// twice, and read back by all of them at every stop.
func TestStateThroughTwoUpgrades(t *testing.T) {
	states := []string{1: t.TempDir(), 2: t.TempDir(), 3: t.TempDir()}
	migrate := []func(context.Context, string, string) (int, error){2: kv2.Migrate, 3: kv3.Migrate}
	written := map[string]string{}
	for native := 1; native <= newest; native++ {
		if native > 1 {
			n, err := migrate[native](t.Context(), states[native-1], states[native])
			if err != nil || n != len(written) {
				t.Fatalf("migrate to %d: %d, %v; want %d", native, n, err, len(written))
			}
		}
		p := start(t, native, states[native], nil)
		for caller := 1; caller <= newest; caller++ {
			c := client(t, caller, p)
			key := fmt.Sprintf("by v%d/at v%d", caller, native)
			written[key] = key + string(text.Data)
			if _, err := c.Put(t.Context(), key, kvload.Value{Data: []byte(written[key]), Type: "text/plain"}, nil); err != nil {
				t.Fatal(err)
			}
			for key, want := range written {
				if got, err := c.Get(t.Context(), key); err != nil || string(got.Data) != want {
					t.Errorf("v%d at v%d: get %q: %q, %v", caller, native, key, got.Data, err)
				}
			}
		}
	}
}

// The load client takes what the rules make of all versions, and sees the
// denials that there should be.
func TestLoadThroughRules(t *testing.T) {
	for native := 1; native <= newest; native++ {
		p := start(t, native, t.TempDir(), nil)
		// The new versions first: version 1 reads what they have written.
		for caller := newest; caller >= 1; caller-- {
			t.Run(fmt.Sprintf("v%d at v%d", caller, native), func(t *testing.T) {
				r := load(t, caller, p, 200)
				wantDenied := caller == 1 && native > 1 || caller > 1 && native == 1
				if r.Failed > 0 || (r.Denied > 0) != wantDenied || r.OK < 100 {
					t.Errorf("%+v; want denied calls: %v", r, wantDenied)
				}
			})
		}
	}
}

// Wrong rules do not get past the load client.
func TestLoadFindsWrongRules(t *testing.T) {
	for name, c := range map[string]struct {
		caller, native int
		old, wrong     string
	}{
		"a revision is made up":            {2, 1, "revision: 0", "revision: 1"},
		"a condition is left out":          {2, 1, ".body.if_revision != null", "false"},
		"a type is left out":               {3, 1, `. != "" and . != "text/plain"`, "false"},
		"a binary value goes to version 1": {1, 2, `startswith("text/") | not`, "false"},
		"a name is forgotten":              {2, 3, "value: .body.data", "value: .body.value"},
		"a condition is not sent on":       {3, 2, "with_entries(.key |=", "del(.if_revision) | with_entries(.key |="},
	} {
		t.Run(name, func(t *testing.T) {
			edited := false
			p := startWith(t, func(rules string) string {
				edited = edited || strings.Contains(rules, c.old)
				return strings.ReplaceAll(rules, c.old, c.wrong)
			}, c.native, t.TempDir(), nil)
			if c.caller == 1 {
				load(t, 2, p, 100) // writes what version 1 then reads
			}
			if r := load(t, c.caller, p, 100); !edited || r.Failed == 0 {
				t.Errorf("not found (edited: %v): %+v", edited, r)
			}
		})
	}
}

// The specs can be read by those who build releases of them.
func TestSpecsLoad(t *testing.T) {
	for n := 1; n <= newest; n++ {
		if _, err := build.Load(fmt.Sprintf("upgrade-%d.hcl", n)); err != nil {
			t.Error(err)
		}
	}
}

func load(t *testing.T, caller int, p peer, calls int64) *kvload.Result {
	t.Helper()
	c := kvload.DefaultConfig()
	c.Version, c.Rate = caller, 0
	c.Targets = []kvload.Target{{Name: "n1", URL: p.url(caller)}}
	l, err := kvload.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		defer cancel()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if s := l.Snapshot(); s.OK+s.Failed+s.Denied >= calls || ctx.Err() != nil {
				return
			}
		}
	}()
	return l.Run(ctx)
}

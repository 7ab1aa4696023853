package simlayer

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/simlayer/tally"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// A call counts as open from when it is let in until its end, whoever takes it to
// the node, and its end is remembered.
func TestOpenCalls(t *testing.T) {
	for _, c := range []struct {
		name     string
		protocol string
		object   so.Object
	}{
		{"relayed", bundle.ProtocolHTTP, so.Compatible()},
		{"simulated", bundle.ProtocolHTTP, passing{}},
		{"raw", bundle.ProtocolTCP, so.Compatible()},
	} {
		t.Run(c.name, func(t *testing.T) {
			leave := make(chan struct{})
			node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				<-leave
				_, _ = io.WriteString(w, "done")
			}))
			defer node.Close()
			l := startLayer(t, c.protocol, nil)
			apply(t, l, Routing{Native: 2, Backends: backends(addrOf(node)), Objects: InProcess(map[bundle.Version]so.Object{1: c.object})})
			of := func(v bundle.Version) tally.Calls { return l.Stats().Services["api"][v] }
			began := time.Now()
			conn, err := net.Dial("tcp", strings.TrimPrefix(versionURL(t, l, 1), "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "an open call", func() bool { return of(1).Open == 1 })
			if got := of(1); got.Calls != 0 || !got.Last.IsZero() {
				t.Errorf("while it is open: %+v", got)
			}
			close(leave)
			if _, err := io.ReadAll(conn); err != nil {
				t.Fatal(err)
			}
			conn.Close()
			eventually(t, "its end", func() bool { return of(1).Open == 0 && of(1).Calls == 1 })
			if got := of(1); got.Last.Before(began) {
				t.Errorf("the last call ended %v, before it began", got.Last)
			}
			if took := l.Stats().Took["api"][1][tally.Answered]; took.Count() != 1 || took.Total != of(1).Total || took.Total <= 0 {
				t.Errorf("how long it took: %+v, of %v", took, of(1).Total)
			}
			if got := of(2); got.Open != 0 || got.Calls != 0 {
				t.Errorf("version 2: %+v", got)
			}
		})
	}
}

// passing is an object that changes nothing, and does not say so.
type passing struct{}

func (passing) Answer(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	return next.RoundTrip(r)
}

// Callers whose calls pass unchanged may go past the layer, unless they are watched,
// or an object observes the node: then those of raw protocols still may.
func TestWhoGoesPast(t *testing.T) {
	for _, protocol := range []string{bundle.ProtocolHTTP, bundle.ProtocolTCP} {
		l := startLayer(t, protocol, nil)
		past := func(r Routing) (versions []bundle.Version) {
			t.Helper()
			r.Native, r.Backends = 2, backends(kit.ClosedPort(t))
			apply(t, l, r)
			for _, f := range l.listeners() {
				if f.straight(l.gate.Routing()) {
					versions = append(versions, f.Label)
				}
			}
			slices.Sort(versions)
			return versions
		}
		old := map[bundle.Version]Object{1: {Local: so.Compatible()}}
		observing := map[bundle.Version]Object{1: old[1], 3: {Addrs: backends(kit.ClosedPort(t)), Observe: secretPath}}
		want := []bundle.Version{0, 1, 2}
		if got := past(Routing{Objects: old}); !slices.Equal(got, want) {
			t.Errorf("%s: %v may go past, want %v", protocol, got, want)
		}
		if got := past(Routing{Objects: old, Watched: map[bundle.Version]bool{1: true}}); !slices.Equal(got, []bundle.Version{0, 2}) {
			t.Errorf("%s: %v may go past while 1 is watched", protocol, got)
		}
		if protocol == bundle.ProtocolHTTP {
			want = nil
		}
		if got := past(Routing{Objects: observing}); !slices.Equal(got, want) {
			t.Errorf("%s: %v may go past while an object observes, want %v", protocol, got, want)
		}
	}
}

// An object's calls are those that came to it: not what its callers called while the node
// was of their version, nor what an object of the other side was called.
func TestObjectsOwnCalls(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		node := addrOf(startNode(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") }))
		l := startLayer(t, bundle.ProtocolHTTP, change)
		c := newClient(t)
		call := func(v bundle.Version, times int) {
			for range times {
				mustDo(t, c, "GET", versionURL(t, l, v), "")
			}
		}
		at := func(native bundle.Version) {
			objects := map[bundle.Version]so.Object{1: passing{}, 2: passing{}, 3: passing{}}
			delete(objects, native)
			apply(t, l, Routing{Native: native, Backends: backends(node), Objects: InProcess(objects)})
		}
		at(1)
		call(1, 4)
		call(2, 3)
		at(2)
		call(1, 2)
		call(2, 5)
		apply(t, l, Routing{Native: 3, Backends: backends(node), Objects: InProcess(map[bundle.Version]so.Object{2: passing{}}), External: 1})
		if r := mustDo(t, c, "GET", publicURL(l), ""); r.status < 500 {
			t.Errorf("a call that no object takes: %+v", r)
		}
		at(3)
		call(2, 1)
		eventually(t, "the calls", func() bool { return l.Stats().Past[2].Calls == 1 })
		s := l.Stats()
		if s.Past[1].Calls != 2 || s.Future[2].Calls != 3 || len(s.Past) != 2 || len(s.Future) != 1 || s.Services["api"][2].Calls != 9 {
			t.Errorf("past %+v, future %+v, of the service %+v", s.Past, s.Future, s.Services["api"])
		}
	})
}

// The log has the version that callers of the public addresses count as, also where a
// service has its own.
func TestExternalInTheLog(t *testing.T) {
	var log strings.Builder
	l := startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		s := c.Services["api"]
		s.External = 1
		c.Services["api"] = s
	})
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(startNode(t, sumNode))), Objects: InProcess(map[bundle.Version]so.Object{1: passing{}})})
	if !strings.Contains(log.String(), " external=1 ") {
		t.Errorf("with external version 1: %s", log.String())
	}
}

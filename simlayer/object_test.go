package simlayer

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// objectProcess stands for an object process: it answers version from by version
// to of a node, at an address of its own.
func objectProcess(t testing.TB, from, to int, node string) *httptest.Server {
	inner := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, inner, Routing{
		Native: bundle.Version(to), Backends: backends(node), External: bundle.Version(from),
		Objects: InProcess(map[bundle.Version]so.Object{bundle.Version(from): rename(t, from, to)}),
	})
	return startNode(t, func(w http.ResponseWriter, r *http.Request) {
		out := r.Clone(r.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", inner.Addresses()["api"].Public
		resp, err := newClient(t).Do(out)
		if err != nil {
			so.AsRefusal(err).Write(w)
			return
		}
		defer resp.Body.Close()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
}

// An object process answers its version and, behind steps in this process, those
// further away. What it refuses counts.
func TestObjectProcess(t *testing.T) {
	st := &state{values: map[string]string{"k": "v"}}
	node := software(t, 3, st)
	process := objectProcess(t, 2, 3, addrOf(node))
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	routing := Routing{
		Native: 3, Backends: backends(addrOf(node)),
		Objects: map[bundle.Version]Object{
			1: {Local: rename(t, 1, 2)},
			2: {Addrs: map[string]string{"api": addrOf(process)}},
			4: {Addrs: map[string]string{}},
		},
	}
	apply(t, l, routing)
	c := newClient(t)
	for v := 1; v <= 3; v++ {
		url := versionURL(t, l, bundle.Version(v))
		if r := mustDo(t, c, "GET", fmt.Sprintf("%s/v%d/keys/k", url, v), ""); strings.TrimSpace(r.body) != fmt.Sprintf(`{"f%d":"v"}`, v) {
			t.Errorf("version %d gets %d %s", v, r.status, r.body)
		}
	}
	if r := mustDo(t, c, "PUT", versionURL(t, l, 2)+"/v2/keys/k", `{"f2":"no"}`); r.status != 501 || r.refusal != so.RefusalDenied {
		t.Errorf("%+v", r)
	}
	if r := mustDo(t, c, "PUT", versionURL(t, l, 1)+"/v1/keys/k", `{"f1":"no"}`); r.status != 501 || r.refusal != so.RefusalDenied {
		t.Errorf("%+v", r)
	}
	if r := mustDo(t, c, "GET", versionURL(t, l, 4)+"/", ""); r.status != 501 || !strings.Contains(r.body, `does not answer for service \"api\"`) {
		t.Errorf("%+v", r)
	}
	s := l.Stats().Services["api"]
	if s[1].Denied != 1 || s[2].Denied != 1 || s[2].Calls != 2 || s[3].Errors != 0 || s[2].Total <= 0 {
		t.Errorf("%+v, want one denied call of version 1 and of 2", s)
	}

	// It crashes: its callers wait, those of the node do not notice.
	process.CloseClientConnections()
	process.Close()
	routing.HoldTimeout = time.Millisecond
	apply(t, l, routing)
	for _, v := range []bundle.Version{1, 2} {
		r := mustDo(t, newClient(t), "GET", fmt.Sprintf("%s/v%d/keys/k", versionURL(t, l, v), v), "")
		if r.status != 503 || !strings.Contains(r.body, "the simulation object for version 2 is not running") {
			t.Errorf("version %d at an object that is not there: %+v", v, r)
		}
	}
	if r := mustDo(t, c, "GET", versionURL(t, l, 3)+"/v3/keys/k", ""); r.status != 200 {
		t.Errorf("version 3: %+v", r)
	}
}

func TestObjectProcessErrors(t *testing.T) {
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	for _, c := range []struct {
		name   string
		object Object
		want   string
	}{
		{"neither", Object{}, "want either"},
		{"both", Object{Local: so.Compatible(), Addrs: map[string]string{}}, "want either"},
		{"address", Object{Addrs: backends("nonsense")}, "want host:port"},
		{"service", Object{Addrs: map[string]string{"x": "127.0.0.1:1"}}, "no such service"},
		{"itself", Object{Addrs: backends(l.Addresses()["api"].Public)}, "the layer's own address"},
	} {
		err := l.Apply(Routing{Native: 1, Backends: backends(kit.ClosedPort(t)), Objects: map[bundle.Version]Object{2: c.object}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("%s: %v, want %q and the version", c.name, err, c.want)
		}
	}
}

// Raw connections go to an object process too.
func TestRawObjectProcess(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			data, _ := io.ReadAll(c)
			fmt.Fprintf(c, "object got %s", data)
			c.Close()
		}
	}()
	l := startLayer(t, bundle.ProtocolTCP, nil)
	apply(t, l, Routing{
		Native: 1, Backends: backends(tcpNode(t, sum).Addr().String()),
		Objects: map[bundle.Version]Object{2: {Addrs: backends("unix:" + sock)}},
	})
	c := dialLayer(t, l.Addresses()["api"].Versions[2])
	fmt.Fprint(c, "hello")
	_ = c.CloseWrite()
	if data, err := io.ReadAll(c); string(data) != "object got hello" {
		t.Errorf("%q, %v", data, err)
	}
}

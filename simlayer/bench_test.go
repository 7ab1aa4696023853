package simlayer

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// BenchmarkCall compares a call through the layer with a direct one, and with
// net/http's own proxy, in one run. Twice direct is the noise.
func BenchmarkCall(b *testing.B) {
	st := &state{values: map[string]string{"k": strings.Repeat("x", 1024)}}
	node := software(b, 2, st)
	target, err := url.Parse(node.URL)
	if err != nil {
		b.Fatal(err)
	}
	plain := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024},
	})
	defer plain.Close()

	// The same software on a unix socket.
	sock := filepath.Join(b.TempDir(), "s")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		b.Fatal(err)
	}
	local := &http.Server{Handler: node.Config.Handler}
	go func() { _ = local.Serve(ln) }()
	defer local.Shutdown(context.Background())

	objects := map[bundle.Version]so.Object{1: rename(b, 1, 2)}
	layer := startLayer(b, bundle.ProtocolHTTP, nil)
	apply(b, layer, Routing{Native: 2, Backends: backends(addrOf(node)), Objects: InProcess(objects)})
	unix := startLayer(b, bundle.ProtocolHTTP, nil)
	apply(b, unix, Routing{Native: 2, Backends: backends("unix:" + sock), Objects: InProcess(objects)})

	for _, c := range []struct{ name, url string }{
		{"direct", node.URL + "/v2/keys/k"},
		{"directAgain", node.URL + "/v2/keys/k"},
		{"reverseProxy", plain.URL + "/v2/keys/k"},
		{"relay", publicURL(layer) + "/v2/keys/k"},
		{"relayUnix", publicURL(unix) + "/v2/keys/k"},
		{"rules", versionURL(b, layer, 1) + "/v1/keys/k"},
	} {
		for _, par := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/conns=%d", c.name, 2*par), func(b *testing.B) {
				client := newClient(b)
				client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
				b.SetParallelism(par)
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						resp, err := client.Get(c.url)
						if err != nil {
							b.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if resp.StatusCode != http.StatusOK {
							b.Errorf("%s: %s", c.url, resp.Status)
							return
						}
					}
				})
			})
		}
	}
}

package simlayer

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"moult/simlayer/so"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// What an object process refuses is counted as such where the calls are relayed by
// HTTP/2 too: of gRPC, whose refusals are trailers only, and of plain HTTP, on one
// connection and on several, among calls that are answered.
func TestRefusalsOfProcessesCounted(t *testing.T) {
	object := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/denied":
			so.Deny(0, strings.Repeat("no ", 300)).WriteTo(w, r)
		case "/failed":
			so.Fail(http.StatusBadGateway, nil, "broken").WriteTo(w, r)
		default:
			_, _ = w.Write([]byte("yes"))
		}
	}))
	node := serve2(t, http.NotFoundHandler())
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(node)), Objects: map[bundle.Version]Object{1: {Addrs: backends(addrOf(object))}}})
	url := versionURL(t, l, 1)
	for _, contentType := range []string{"application/grpc", "application/json"} {
		c := newClient2(t)
		for range 3 { // later ones are told by what the table of headers has
			for _, path := range []string{"/denied", "/yes", "/failed", "/denied"} {
				resp, err := c.Post(url+path, contentType, strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
			}
		}
	}
	var got tally.Calls
	eventually(t, "24 calls counted", func() bool {
		got = l.Stats().Services["api"][1]
		return got.Calls == 24 && got.Open == 0
	})
	if got.Denied != 12 || got.Errors != 6 {
		t.Errorf("%d denied and %d failed, want 12 and 6", got.Denied, got.Errors)
	}
}

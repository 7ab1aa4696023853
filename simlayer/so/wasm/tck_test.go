package wasm

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/http-wasm/http-wasm-host-go/tck"

	"moult/simlayer/so"
)

// server serves what the object answers, with node as what it calls.
func server(t *testing.T, o so.Object, node http.Handler) *httptest.Server {
	t.Helper()
	backend := httptest.NewServer(node)
	t.Cleanup(backend.Close)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := o.Answer(r, roundTripper(func(out *http.Request) (*http.Response, error) {
			out = out.Clone(out.Context())
			out.URL.Scheme, out.URL.Host = "http", backend.Listener.Addr().String()
			out.RequestURI = ""
			return http.DefaultTransport.RoundTrip(out)
		}))
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
	}))
	t.Cleanup(s.Close)
	return s
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestTCK runs the test suite that http-wasm has for its hosts.
func TestTCK(t *testing.T) {
	o := open(t, tck.GuestWASM, nil)
	s := server(t, o, tck.BackendHandler())
	t.Run("suite", func(t *testing.T) { tck.Run(t, s.Client(), s.URL) })
}

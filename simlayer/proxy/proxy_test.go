package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"moult/simlayer/so"
)

// passing is a proxy to a node, as a user of the package makes one.
type passing struct {
	to    func(*http.Request) (*http.Response, error)
	proxy *Proxy
}

type passingCall struct {
	Call
	failure error
}

func newPassing(to func(*http.Request) (*http.Response, error)) *passing {
	p := &passing{to: to}
	p.proxy = New(Config{
		Host: "node", Transport: p, Log: slog.New(slog.DiscardHandler),
		Refuse: func(_ http.Header, r *http.Request, err error) *so.Refusal {
			Of[*passingCall](r.Context()).failure = err
			return so.AsRefusal(err)
		},
	})
	return p
}

func (p *passing) RoundTrip(r *http.Request) (*http.Response, error) {
	c := Of[*passingCall](r.Context())
	out := r.WithContext(r.Context())
	c.Renew(out)
	return p.to(out)
}

func (p *passing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &passingCall{}
	c.Begin(r)
	p.proxy.Serve(w, r, c, 16)
}

// serveAll serves h, and returns where.
func serveAll(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(h, slog.New(slog.DiscardHandler))
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// startPassing serves a proxy to a node at addr.
func startPassing(t *testing.T, addr string) string {
	t.Helper()
	tr := NewTransport(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}, false, time.Second)
	t.Cleanup(tr.CloseIdleConnections)
	return serveAll(t, newPassing(tr.RoundTrip))
}

// say sends text to addr and returns the answer, with whether another call may
// follow.
func say(t *testing.T, addr, text string) (*http.Response, string, bool) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body), !resp.Close
}

// What a caller sends arrives as it would without the proxy.
func TestHidden(t *testing.T) {
	addr := startPassing(t, serveAll(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		data, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %v %v %s %s", r.Method, r.RequestURI, r.Host, r.Header["X-Forwarded-For"], r.Header["User-Agent"], data, r.Trailer.Get("End"))
	})))
	for text, want := range map[string]string{
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n":                                                                             "OPTIONS * x [] []  ",
		"GET /a%2Fb/..//[c]?x;y=%zz HTTP/1.1\r\nHost: x:80\r\nUser-Agent: u\r\n\r\n":                                        "GET /a%2Fb/..//[c]?x;y=%zz x:80 [] [u]  ",
		"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\nX-A: b\r\n\r\n":                                           "GET / x [1.2.3.4] []  ",
		"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nshort":                                                      "PUT /k x [] [] short ",
		"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nlonger than is kept.":                                      "PUT /k x [] [] longer than is kept. ",
		"PUT /k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: End\r\n\r\n3\r\nabc\r\n0\r\nEnd: yes\r\n\r\n": "PUT /k x [] [] abc yes",
	} {
		resp, got, again := say(t, addr, text)
		if resp.StatusCode != 200 || got != want || !again || resp.Header["Content-Type"] != nil {
			t.Errorf("%q: %d %q, another may follow: %t, %v; want %q", text, resp.StatusCode, got, again, resp.Header, want)
		}
	}
}

// An answer that comes while the caller still sends is the last of its connection,
// and nothing more is read of the body.
func TestEarlyAnswer(t *testing.T) {
	for name, to := range map[string]func(*http.Request) (*http.Response, error){
		"answer": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
		},
		"refusal": func(r *http.Request) (*http.Response, error) { return nil, so.Deny(0, "no") },
	} {
		t.Run(name, func(t *testing.T) {
			kept := make(chan io.Reader, 1)
			p := newPassing(func(r *http.Request) (*http.Response, error) {
				kept <- r.Body
				return to(r)
			})
			over := make(chan struct{})
			addr := serveAll(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(over)
				p.ServeHTTP(w, r)
			}))
			if _, _, again := say(t, addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nthe rest does not come"); again {
				t.Error("the connection goes on")
			}
			<-over
			if n, err := (<-kept).Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("%d bytes were read of a call that had ended, %v", n, err)
			}
		})
	}
}

func TestConnectIsRefused(t *testing.T) {
	addr := startPassing(t, "127.0.0.1:1")
	resp, got, _ := say(t, addr, "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n")
	if resp.StatusCode != http.StatusNotImplemented || !strings.Contains(got, "CONNECT is for proxies") {
		t.Errorf("%d %s", resp.StatusCode, got)
	}
}

// What is said of a failure: an object's own word stays, and doubt is told.
func TestExplain(t *testing.T) {
	broke := errors.New("it broke")
	for _, c := range []struct {
		name   string
		unsafe bool
		err    error
		want   string
	}{
		{"doubt", true, broke, "next went away before it answered; whether it has carried out the call is not known: it broke"},
		{"no doubt", false, broke, "the call to the node failed: it broke"},
		{"refusal", true, so.Fail(http.StatusBadGateway, nil, "its answer is no JSON"), "its answer is no JSON"},
	} {
		r := so.AsRefusal(Explain("next", c.unsafe, c.err))
		if r.Reason != c.want || r.Status != http.StatusBadGateway {
			t.Errorf("%s: %d %q", c.name, r.Status, r.Reason)
		}
	}
}

func TestAgain(t *testing.T) {
	broke, dial := errors.New("it broke"), fmt.Errorf("try: %w", &DialError{errors.New("refused")})
	over, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		name, method string
		ctx          context.Context
		err          error
		used, want   bool
	}{
		{"safe", "GET", t.Context(), broke, false, true},
		{"unsafe", "POST", t.Context(), broke, false, false},
		{"not sent", "POST", t.Context(), dial, false, true},
		{"body used", "POST", t.Context(), dial, true, false},
		{"refused", "GET", t.Context(), so.Deny(0, "no"), false, false},
		{"caller gone", "GET", over, broke, false, false},
	} {
		var call Call
		call.body.used = c.used
		if call.Sent(c.method, c.err); call.Again(c.ctx, c.err) != c.want {
			t.Errorf("%s: want %t", c.name, c.want)
		}
	}
}

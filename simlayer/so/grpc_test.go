package so

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"moult/simlayer/so/jq"
)

// h2c serves HTTP/2 without TLS, and HTTP/1.1.
func h2c(t *testing.T, h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = &http.Protocols{}
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// h2cTransport speaks HTTP/2 only.
func h2cTransport(t *testing.T) *http.Transport {
	tr := &http.Transport{Protocols: &http.Protocols{}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// h2Front serves an object's callers by HTTP/2, at a node that speaks it too.
func h2Front(t *testing.T, o Object, node *url.URL) *httptest.Server {
	to := h2cTransport(t)
	next := roundTripper(func(r *http.Request) (*http.Response, error) {
		u := *r.URL
		u.Scheme, u.Host = "http", node.Host
		r = r.WithContext(r.Context())
		r.URL = &u
		return to.RoundTrip(r)
	})
	return h2c(t, &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) { pr.Out.Trailer = pr.In.Trailer },
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return o.Answer(r, next)
		}),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { AsRefusal(err).WriteTo(w, r) },
	})
}

// A real client and server of gRPC, with rules between them that leave bodies
// alone: calls pass with their trailers, streams too, and what is denied is told in
// gRPC's own terms.
func TestGRPCThroughRules(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	checks := health.NewServer()
	healthpb.RegisterHealthServer(server, checks)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	rules := mustParse(t, `
call "POST /grpc.health.v1.Health/Watch" {
  next "POST /grpc.health.v1.Health/Watch" { headers = { X-Seen = "yes" } }
  response "200" { headers = { X-Mapped = "yes" } }
}
call "POST /grpc.health.v1.Health/Check" {
  headers = ["x-deny"]
  deny { reason = "100% gone: größer" }
}
call "POST /grpc.health.v1.Health/Check" {
  next "POST /grpc.health.v1.Health/Check" {}
  response "200" { headers = { X-Mapped = "yes" } }
}
default {
  deny {
    status = 404
    reason = "no such call"
  }
}`)
	front := h2Front(t, rules, &url.URL{Host: l.Addr().String()})
	conn, err := grpc.NewClient(front.Listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	client := healthpb.NewHealthClient(conn)

	var header, trailer metadata.MD
	r, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || r.Status != healthpb.HealthCheckResponse_SERVING || len(header["x-mapped"]) != 1 {
		t.Fatalf("check: %v %v, header %v", r, err, header)
	}
	if _, err = client.Check(ctx, &healthpb.HealthCheckRequest{Service: "none"}); status.Code(err) != codes.NotFound {
		t.Errorf("the server's own status became %v", err)
	}
	denied := metadata.AppendToOutgoingContext(ctx, "x-deny", "1")
	if _, err = client.Check(denied, &healthpb.HealthCheckRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != "100% gone: größer" {
		t.Errorf("denied: %v", err)
	}
	if got := append(header["moult-refusal"], trailer["moult-refusal"]...); len(got) == 0 || got[0] != RefusalDenied {
		t.Errorf("denied: header %v, trailer %v", header, trailer)
	}
	if _, err := client.List(ctx, &healthpb.HealthListRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("no such call: %v", err)
	}
	watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{Service: "s"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVICE_UNKNOWN, healthpb.HealthCheckResponse_NOT_SERVING} {
		if got, err := watch.Recv(); err != nil || got.Status != want {
			t.Fatalf("message %d of a stream: %v %v", i, got, err)
		}
		checks.SetServingStatus("s", healthpb.HealthCheckResponse_NOT_SERVING)
	}
}

func TestGRPCStatus(t *testing.T) {
	for _, c := range []struct {
		refusal *Refusal
		want    codes.Code
	}{
		{Deny(0, "r"), codes.Unimplemented}, {Deny(418, "r"), codes.Unimplemented}, {Deny(400, "r"), codes.InvalidArgument},
		{Deny(401, "r"), codes.Unauthenticated}, {Deny(403, "r"), codes.PermissionDenied}, {Deny(404, "r"), codes.NotFound},
		{Deny(409, "r"), codes.Aborted}, {Deny(412, "r"), codes.FailedPrecondition},
		{Fail(429, nil, "r"), codes.Unavailable}, {Fail(503, nil, "r"), codes.Unavailable}, {Fail(504, nil, "r"), codes.DeadlineExceeded},
		{Fail(501, nil, "r"), codes.Unimplemented}, {Fail(500, nil, "r"), codes.Internal}, {Fail(502, nil, "r"), codes.Internal}, {Fail(413, nil, "r"), codes.Unknown},
	} {
		if got := c.refusal.grpcStatus(); got != int(c.want) {
			t.Errorf("%v: %d, want %d", c.refusal, got, c.want)
		}
	}
	for kind, want := range map[string]bool{"application/grpc": true, "application/grpc+proto": true, "Application/GRPC; x=y": true, "application/grpc-web": true,
		"application/grpcx": false, "application/json": false, "": false} {
		req := httptest.NewRequest("POST", "/", nil)
		req.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		r := &Refusal{Status: 503, Reason: "a\n%", RetryAfter: 1500 * time.Millisecond}
		r.WriteTo(w, req)
		resp := r.Response(req)
		body, _ := io.ReadAll(resp.Body)
		if isGRPC := w.Code == 200 && w.Header().Get("Grpc-Status") == "14" && w.Header().Get("Grpc-Message") == "a%0A%25" && w.Body.Len() == 0 &&
			w.Header().Get("Content-Type") == kind && w.Header().Get("Grpc-Retry-Pushback-Ms") == "1500"; isGRPC != want {
			t.Errorf("%q: %d %v %s", kind, w.Code, w.Header(), w.Body)
		}
		if resp.StatusCode != w.Code || string(body) != w.Body.String() || resp.Header.Get("Grpc-Status") != w.Header().Get("Grpc-Status") || w.Header().Get(RefusalHeader) != RefusalError {
			t.Errorf("%q: Response and WriteTo differ", kind)
		}
	}
}

// Mapping JSON over HTTP/2, where :authority takes the place of Host; and trailers,
// both ways, past rules that leave the body alone.
func TestHTTP2(t *testing.T) {
	node := h2c(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Got", r.Proto+" "+r.Host+" "+r.Method+" "+r.RequestURI+" "+string(data)+" "+r.Trailer.Get("X-In"))
		_, _ = io.WriteString(w, `{"value":1}`)
		w.Header().Set("X-Sum", "after")
	}))
	at, _ := url.Parse(node.URL)
	front := h2Front(t, mustParse(t, `
call "PUT /map/{k}" {
  next "PUT /mapped/{k}" { body = "{v: .body.value}" }
  response "200" { body = "{old: .body.value}" }
}
call "PUT /plain" {
  next "PUT /x" {}
  response "200" { headers = { X-A = "a" } }
}
default { pass = true }`), at)
	client := &http.Client{Transport: h2cTransport(t)}
	for _, c := range []struct{ path, got, body, trailer string }{
		{"/map/a%2Fb", `PUT /mapped/a%2Fb {"v":[2.50]} `, `{"old":1}`, ""},
		{"/plain", `PUT /x {"value":[2.50]} in`, `{"value":1}`, "after"},
	} {
		req, _ := http.NewRequest("PUT", front.URL+c.path, io.NopCloser(strings.NewReader(`{"value":[2.50]}`)))
		req.Host = "public.example:7000"
		req.Trailer = http.Header{"X-In": {"in"}}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got, want := resp.Header.Get("X-Got"), "HTTP/2.0 public.example:7000 "+c.got; got != want || string(data) != c.body || resp.Trailer.Get("X-Sum") != c.trailer {
			t.Errorf("%s: the node got %q, want %q; the caller got %s and trailers %v", c.path, got, want, data, resp.Trailer)
		}
	}
}

// The bad input of rules: each fails its own call, with a reason.
func TestBadInput(t *testing.T) {
	const file = `
call "PUT /fails" {
  next "PUT /b" { body = ".body.a + 1 | error" }
}
call "PUT /maps" {
  next "PUT /b" { body = "{a: .body.a}" }
  response "200" { body = "{a: .body.a}" }
}
call "PUT /loops" {
  next "PUT /b" { body = "last(range(infinite))" }
}
call "PUT /explodes" {
  next "PUT /b" { body = "reduce range(64) as $i (.body; [., .])" }
}
call "PUT /doubles" {
  next "PUT /b" { body = "[.body, .body] | [., .] | [., .] | [., .]" }
}
default { pass = true }`
	rules := mustParse(t, file)
	long := `"` + strings.Repeat("x", 1<<20) + `"`
	ok := `{"a":1}`
	for _, c := range []struct {
		name, path, body, answer string
		status                   int
		reason                   string
	}{
		{"jq that fails", "/fails", ok, ok, 500, "test.hcl:2: body of next"},
		{"jq on a body of another shape", "/maps", `[1]`, ok, 500, "expected an object but got: array ([1])"},
		{"jq that loops", "/loops", ok, ok, 500, "not done after 1s"},
		{"output that explodes", "/explodes", ok, ok, 500, "its value is over"},
		{"output that is bounded and grows", "/doubles", long, ok, 500, "its value is over"},
		{"a body over the limit", "/maps", `{"a":"` + strings.Repeat("x", MaxBody) + `"}`, ok, 413, "over 8388608 bytes"},
		{"invalid JSON", "/maps", `{"a":1,}`, ok, 400, "not JSON: invalid character '}'"},
		{"half a JSON", "/maps", `{"a":`, ok, 400, "not JSON: unexpected EOF"},
		{"two values", "/maps", `{} {}`, ok, 400, "something follows the JSON value"},
		{"not UTF-8", "/maps", "{\"a\":\"\xff\"}", ok, 400, "it is not UTF-8"},
		{"half a pair", "/maps", `{"a":"\udc00"}`, ok, 400, "half a surrogate pair"},
		{"a number without end", "/maps", `{"a":` + strings.Repeat("9", 1001) + `}`, ok, 400, "a number of more than 1000 bytes"},
		{"too deep", "/maps", `{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, ok, 400, "exceeded max depth"},
		{"an answer that is no JSON", "/maps", ok, "<html>", 502, "not JSON"},
		{"an answer over the limit", "/maps", ok, `{"a":"` + strings.Repeat("x", MaxBody) + `"}`, 502, "over 8388608 bytes"},
		{"an answer of another shape", "/maps", ok, `"x"`, 502, "expected an object but got: string"},
		{"an escaped name", "/maps", `{"\u0061":[1,"\ud83d\ude00"]}`, ok, 0, ""},
		{"a name twice", "/maps", `{"a":2,"a":1}`, ok, 0, ""},
		{"deep, but allowed", "/maps", `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, ok, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := ""
			resp, err := rules.Answer(httptest.NewRequest("PUT", c.path, strings.NewReader(c.body)), roundTripper(func(r *http.Request) (*http.Response, error) {
				data, err := io.ReadAll(r.Body)
				sent = string(data)
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(c.answer))}, err
			}))
			if c.status == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if v, err := jq.Decode([]byte(sent)); err != nil || v.(map[string]any)["a"] == nil {
					t.Errorf("the node got %.100s", sent)
				}
				resp.Body.Close()
				return
			}
			var r *Refusal
			if !errors.As(err, &r) || r.Denied || r.Status != c.status || !strings.Contains(r.Reason, c.reason) {
				t.Fatalf("got %v, want %d with %q", err, c.status, c.reason)
			}
			if len(r.Reason) > 4096 {
				t.Errorf("the reason has %d bytes", len(r.Reason))
			}
		})
	}
}

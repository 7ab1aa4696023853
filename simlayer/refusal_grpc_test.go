package simlayer

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// grpcNode serves gRPC's health service.
func grpcNode(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func checkGRPC(t *testing.T, addr string) error {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// denyHealth is rules that deny one call and let all others pass.
func denyHealth(t *testing.T) so.Object {
	rules, err := so.ParseRules([]byte(`
call "POST /grpc.health.v1.Health/Check" {
  deny {
    reason = "no health, 100 % é"
  }
}
default {
  pass = true
}`), "deny.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// Whatever the layer refuses, a caller by gRPC hears it in gRPC's terms, with the
// reason.
func TestRefusalsInGRPC(t *testing.T) {
	denies := denyHealth(t)
	node := grpcNode(t)
	objects := InProcess(map[bundle.Version]so.Object{1: denies, 3: so.Refuse("3 knows other calls")})
	for name, c := range map[string]struct {
		routing Routing
		version bundle.Version
		code    codes.Code
		reason  string
	}{
		"passes":              {Routing{Native: 2, Backends: backends(node), Objects: objects}, 2, codes.OK, ""},
		"denied by rules":     {Routing{Native: 2, Backends: backends(node), Objects: objects}, 1, codes.Unimplemented, "no health, 100 % é"},
		"refused by a word":   {Routing{Native: 2, Backends: backends(node), Objects: objects}, 3, codes.Unimplemented, "3 knows other calls"},
		"held for too long":   {Routing{Native: 2, Down: true, HoldTimeout: 20 * time.Millisecond}, 2, codes.Unavailable, "the node is down for longer"},
		"a node that is gone": {Routing{Native: 2, Backends: backends(kit.ClosedPort(t)), HoldTimeout: 20 * time.Millisecond}, 2, codes.Unavailable, "the node did not take calls"},
	} {
		t.Run(name, func(t *testing.T) {
			l := startLayer(t, bundle.ProtocolHTTP, nil)
			apply(t, l, c.routing)
			addr := strings.TrimPrefix(versionURL(t, l, c.version), "http://")
			s := status.Convert(checkGRPC(t, addr))
			if s.Code() != c.code || !strings.HasPrefix(s.Message(), c.reason) {
				t.Errorf("%v: %q, want %v: %q", s.Code(), s.Message(), c.code, c.reason)
			}
		})
	}
}

// A simulated call that is cut as the node goes down ends in gRPC's terms too. The
// check above would not see plain HTTP here, since grpc-go makes a status of it: so
// the response is looked at as it is.
func TestRefusalsInGRPCAreWhole(t *testing.T) {
	arrived := make(chan struct{})
	node := blockingNode(t, arrived)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	routing := Routing{Native: 2, Backends: backends(node), Objects: InProcess(map[bundle.Version]so.Object{1: denyHealth(t)})}
	for _, c := range []struct{ contentType, status, header string }{
		{"application/grpc+proto", "200", strconv.Itoa(int(codes.Unavailable))},
		{"application/json", "503", ""},
	} {
		apply(t, l, routing)
		got := make(chan *http.Response, 1)
		go func() { got <- postH2C(t, versionURL(t, l, 1)+"/a/b", c.contentType) }()
		<-arrived
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := l.Drain(ctx); n != 1 || err == nil {
			t.Errorf("%d calls cut, %v", n, err)
		}
		resp := <-got
		if resp == nil {
			t.Fatal("no response")
		}
		if got := strconv.Itoa(resp.StatusCode); got != c.status || resp.Header.Get("Grpc-Status") != c.header || resp.Header.Get(so.RefusalHeader) != so.RefusalError {
			t.Errorf("%s: %s %v", c.contentType, got, resp.Header)
		}
	}
}

// blockingNode says when a call has arrived, and answers none.
func blockingNode(t *testing.T, arrived chan<- struct{}) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})}
	s.Protocols.SetUnencryptedHTTP2(true)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return ln.Addr().String()
}

// postH2C makes one call by HTTP/2 without TLS.
func postH2C(t *testing.T, url, contentType string) *http.Response {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader([]byte{0, 0, 0, 0, 0}))
	if err != nil {
		t.Error(err)
		return nil
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
	return resp
}

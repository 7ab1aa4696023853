package simlayer

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// sumNode answers with what it was asked, in the framing that the path names. The
// answer is the same however the call came in.
func sumNode(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	w.Header()["Date"] = nil
	text := fmt.Sprintf("%s %s %x %v\n", r.Method, r.URL.Path, sha256.Sum256(data), err)
	switch r.URL.Path {
	case "/none":
		w.WriteHeader(http.StatusNoContent)
		return
	case "/same":
		w.WriteHeader(http.StatusNotModified)
		return
	case "/early":
		w.WriteHeader(http.StatusEarlyHints)
	case "/long":
		text = strings.Repeat(text, 700)
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	}
	for i := 0; i < len(text); i += 5_000 {
		_, _ = io.WriteString(w, text[i:min(i+5_000, len(text))])
		if r.URL.Path == "/pieces" {
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// requestsFor makes requests of all framings, the last of which ends the
// connection.
func requestsFor(rng *rand.Rand) string {
	var b strings.Builder
	paths := []string{"/none", "/same", "/early", "/long", "/pieces", "/"}
	methods := []string{"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"}
	for range 12 {
		path, method := paths[rng.IntN(len(paths))], methods[rng.IntN(len(methods))]
		body := strings.Repeat("b", rng.IntN(3)*rng.IntN(15_000))
		switch rng.IntN(3) {
		case 0:
			fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", method, path)
		case 1:
			fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: x\r\ncontent-length:%d\r\n\r\n%s", method, path, len(body), body)
		case 2:
			fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", method, path)
			for len(body) > 0 {
				n := min(len(body), 1+rng.IntN(4_000))
				fmt.Fprintf(&b, "%x;e=1\r\n%s\r\n", n, body[:n])
				body = body[n:]
			}
			b.WriteString("0\r\nT: 1\r\n\r\n")
		}
	}
	b.WriteString("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	return b.String()
}

// What comes back by the relay is byte for byte what comes back without it,
// however the requests are cut into pieces.
func TestSameBytes(t *testing.T) {
	node := startNode(t, sumNode)
	l := relayTo(t, addrOf(node))
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		requests := requestsFor(rng)
		want := exchangeAll(t, addrOf(node), requests, rng)
		got := exchangeAll(t, l.Addresses()["api"].Public, requests, rng)
		if !bytes.Equal(want, got) {
			t.Fatalf("seed %d: %d bytes without the relay, %d with it", seed, len(want), len(got))
		}
	}
	s := l.Stats()
	if c := s.Services["api"][1]; c.Calls != 20*13 || c.Errors != 0 || s.InFlight != 0 {
		t.Errorf("%+v, want %d calls: each was seen to end", s, 20*13)
	}
}

// exchangeAll says text in pieces and returns all that comes back.
func exchangeAll(t *testing.T, addr, text string, rng *rand.Rand) []byte {
	c := dialLayer(t, addr)
	all := make(chan []byte)
	go func() {
		data, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		all <- data
	}()
	for len(text) > 0 {
		n := min(len(text), 1+rng.IntN(1+rng.IntN(20_000)))
		if _, err := io.WriteString(c, text[:n]); err != nil {
			t.Error(err)
			break
		}
		text = text[n:]
	}
	return <-all
}

// A drain ends when the bodies of calls have, and not before: neither that of a
// request nor that of an answer.
func TestDrainWaitsForBodies(t *testing.T) {
	for name, c := range map[string]struct{ request, more, head, rest string }{
		"sized answer":   {getOf("/"), "", "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsome", "more"},
		"chunked answer": {getOf("/"), "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n", "0\r\n\r\n"},
		"interim answer": {getOf("/"), "", "HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		"part of a head": {getOf("/"), "", "HTTP/1.1 204 No Con", "tent\r\n\r\n"},
		"early answer": {
			"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n", "0\r\n\r\n",
			"HTTP/1.1 204 No Content\r\n\r\n", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			began, finish := make(chan struct{}), make(chan struct{})
			node := tcpNode(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = io.WriteString(conn, c.head)
				close(began)
				<-finish
				_, _ = io.WriteString(conn, c.rest)
				_, _ = io.Copy(io.Discard, conn)
			})
			l := relayTo(t, node.Addr().String())
			caller := rawTo(t, l.Addresses()["api"].Public)
			caller.say(c.request)
			<-began
			drained := make(chan error, 1)
			go func() {
				_, err := l.Drain(t.Context())
				drained <- err
			}()
			eventually(t, "the drain", l.gate.Leaving)
			if n := l.Stats().InFlight; n != 1 {
				t.Errorf("%d calls in flight within one, want 1", n)
			}
			select {
			case <-drained:
				t.Error("the drain has ended within a call")
			default:
			}
			close(finish)
			caller.say(c.more)
			if err := <-drained; err != nil {
				t.Error(err)
			}
		})
	}
}

// Unchanged clients and servers of gRPC, through swaps of the node: no call fails.
func TestGRPCOverSwaps(t *testing.T) {
	l := relayTo(t, grpcNode(t))
	conn, err := grpc.NewClient("passthrough:///"+l.Addresses()["api"].Public,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	calls, stop := make(chan error), make(chan struct{})
	go func() {
		defer close(calls)
		for {
			_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
			select {
			case calls <- err:
			case <-stop:
				return
			}
		}
	}()
	for range 10 {
		for range 20 {
			if err := <-calls; err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		apply(t, l, Routing{Native: 1, Backends: backends(grpcNode(t))})
	}
	close(stop)
	for range calls {
	}
	if s := l.Stats().Services["api"][1]; s.Calls < 200 || s.Errors != 0 {
		t.Errorf("%+v", s)
	}
}

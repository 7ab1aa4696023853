package simlayer

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"moult/store/bundle"
)

// grpcEnv makes this binary a client of gRPC in the environment of a node.
const grpcEnv = "MOULT_TEST_GRPC"

// A client of gRPC that knows of nothing but its environment reaches a peer by its
// public name, as its own version.
func TestEgressGRPC(t *testing.T) {
	if name := os.Getenv(grpcEnv); name != "" {
		if err := callGRPC(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	asked := make(chan string, 100)
	// The name is nobody's: it is for the proxy to know. Loopback addresses are
	// never called by a proxy that comes from the environment.
	const public = "kv-3.example:7000"
	node := startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		c.Egress, c.EgressSecret = "127.0.0.1:0", "word"
		c.Resolve = func(dest string, v bundle.Version) (string, bool, error) {
			asked <- fmt.Sprintf("%s for version %d", dest, v)
			return ln.Addr().String(), dest == public, nil
		}
	})
	apply(t, node, Routing{Native: 7, Down: true})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestEgressGRPC$", "-test.v")
	cmd.Env = append(os.Environ(), grpcEnv+"="+public, "NO_PROXY=", "no_proxy=")
	for name, value := range node.EgressEnvironment() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, want := <-asked, public+" for version 7"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	eventually(t, "one call counts", func() bool { s := node.Stats().Egress; return s.Calls == 1 && s.Errors == 0 })
}

func callGRPC(ctx context.Context, name string) error {
	conn, err := grpc.NewClient(name, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err == nil && resp.Status != healthpb.HealthCheckResponse_SERVING {
		err = fmt.Errorf("status %v", resp.Status)
	}
	return err
}

func TestEgressEnvironment(t *testing.T) {
	node, _, _ := egressPair(t)
	env := node.EgressEnvironment()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		if env[name] == "" || env[name] != env[strings.ToLower(name)] || !strings.HasSuffix(env[name], "://"+node.EgressURL().Host) {
			t.Errorf("%s: %q and %q", name, env[name], env[strings.ToLower(name)])
		}
	}
	if env := startLayer(t, bundle.ProtocolHTTP, nil).EgressEnvironment(); len(env) != 0 {
		t.Errorf("without a proxy: %v", env)
	}
}

package grpckv

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// drain is how long calls may go on after SIGTERM.
const drain = 20 * time.Second

// Main runs a node until SIGTERM and returns its exit code. args is without the
// program's name.
//
//	grpc-kv VERSION --listen host:port --state DIR
//
// A program that was given a listening socket (sd_listen_fds(3)) serves on that
// instead.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, args, os.Getenv, os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(os.Stderr, "grpc-kv: %v\n", err)
		}
		return 1
	}
	return 0
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("grpc-kv VERSION", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("listen", "", "`host:port` to serve on")
	state := flags.String("state", "", "`folder` of the values")
	if len(args) == 0 {
		return fmt.Errorf("say which version: %d to %d", oldest, newest)
	}
	version, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("version %q: want %d to %d", args[0], oldest, newest)
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if *state == "" || *addr == "" || flags.NArg() > 0 {
		return errors.New("need --listen host:port and --state folder, and nothing else")
	}
	ln, err := listen(*addr, getenv)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "grpc-kv: version %d listening on %s\n", version, ln.Addr())
	return Serve(ctx, version, ln, *state)
}

// firstInherited is the descriptor of the first socket of socket activation.
const firstInherited = 3

func listen(addr string, getenv func(string) string) (net.Listener, error) {
	if getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		f := os.NewFile(firstInherited, "inherited socket")
		defer f.Close()
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("serve on the socket that this program was given: %w", err)
		}
		return ln, nil
	}
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("serve on %s: %w", addr, err)
	}
	return ln, nil
}

// Serve answers calls of a version on the state in dir until ctx ends; then those
// under way are answered, or cut after a while. It closes ln.
func Serve(ctx context.Context, version int, ln net.Listener, dir string) error {
	desc, err := describe(version)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	store, err := OpenStore(dir)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	srv := grpc.NewServer()
	srv.RegisterService(desc, store)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	cut := time.AfterFunc(drain, srv.Stop)
	defer cut.Stop()
	srv.GracefulStop()
	return <-served
}

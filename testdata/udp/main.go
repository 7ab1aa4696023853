package udpkv

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// Main runs a node, or a simulation object, until SIGTERM, or asks a node whether it
// answers. It returns the exit code. args is without the program's name.
//
//	udp-kv serve VERSION --listen host:port --state DIR    (or on a socket that it inherits)
//	udp-kv check VERSION host:port
//	udp-kv past | future            the objects of version 3
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, args); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(os.Stderr, "udp-kv: %v\n", err)
		}
		return 1
	}
	return 0
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say what: serve, check, past or future")
	}
	switch args[0] {
	case "past":
		return simulate(ctx, wordsOf(2), wordsOf(3), "version 3 does not count")
	case "future":
		return simulate(ctx, wordsOf(3), wordsOf(2), "version 2 has no such call")
	}
	if len(args) < 3 {
		return errors.New("say which version, and where")
	}
	version, err := strconv.Atoi(args[1])
	if err != nil || version < oldest || version > newest {
		return fmt.Errorf("version %q: want %d to %d", args[1], oldest, newest)
	}
	switch args[0] {
	case "check":
		return check(version, args[2])
	case "serve":
		return serve(ctx, version, args[2:])
	}
	return fmt.Errorf("%q: want serve, check, past or future", args[0])
}

// listen takes the socket that the node was started with, and else opens its own.
func listen(addr string) (net.PacketConn, error) {
	if os.Getenv("LISTEN_FDS") != "" {
		return inherited("api", os.Getenv)
	}
	return net.ListenPacket("udp", addr)
}

func simulate(ctx context.Context, from, to words, reason string) error {
	conn, err := inherited("api", os.Getenv)
	if err != nil {
		return err
	}
	o := &object{conn: conn, next: os.Getenv("MOULT_NEXT_API"), from: from, to: to, reason: reason, callers: map[netip.AddrPort]net.Conn{}}
	return o.serve(ctx)
}

func check(version int, addr string) error {
	c, err := Dial(version, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Patience, c.Tries = time.Second, 1
	_, _, err = c.Get("check")
	return err
}

func serve(ctx context.Context, version int, args []string) error {
	flags := flag.NewFlagSet("udp-kv serve VERSION", flag.ContinueOnError)
	addr := flags.String("listen", "", "`host:port` to answer at")
	state := flags.String("state", "", "`folder` of the values")
	if err := flags.Parse(args); err != nil {
		return err
	}
	n, err := openNode(version, *state)
	if err != nil {
		return err
	}
	conn, err := listen(*addr)
	if err != nil {
		return errors.Join(err, n.log.Close())
	}
	return n.serve(ctx, conn)
}

package simlayer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"moult/simlayer/stream"
)

// SOCKS5 is RFC 1928. What is here: CONNECT, without authentication.
const (
	socksVersion   = 5
	socksNoAuth    = 0
	socksNoMethod  = 0xff
	socksConnect   = 1
	socksIPv4      = 1
	socksDomain    = 3
	socksIPv6      = 4
	socksSucceeded = 0
)

// socksReply says why a call by SOCKS5 failed.
type socksReply byte

const (
	socksFailure     socksReply = 1
	socksNotAllowed  socksReply = 2
	socksNoNetwork   socksReply = 3
	socksNoHost      socksReply = 4
	socksRefused     socksReply = 5
	socksTimeout     socksReply = 6
	socksBadCommand  socksReply = 7
	socksBadAddrType socksReply = 8
)

// socksError is a call that is answered by a reply.
type socksError struct {
	reply socksReply
	err   error
}

func (e *socksError) Error() string { return e.err.Error() }
func (e *socksError) Unwrap() error { return e.err }

func socksErrorf(reply socksReply, format string, args ...any) error {
	return &socksError{reply, fmt.Errorf(format, args...)}
}

// readSOCKS reads what a caller sends until it waits for a reply, byte for byte
// no more than that, and answers its greeting. The request is the host and port to
// call. An error that is a socksError wants a reply; any other does not.
func readSOCKS(rw io.ReadWriter) (dest string, err error) {
	var buf [256]byte
	if _, err := io.ReadFull(rw, buf[:2]); err != nil {
		return "", fmt.Errorf("read the greeting: %w", err)
	}
	if buf[0] != socksVersion {
		return "", fmt.Errorf("greeting of SOCKS version %d, want %d", buf[0], socksVersion)
	}
	methods := buf[:buf[1]]
	if _, err := io.ReadFull(rw, methods); err != nil {
		return "", fmt.Errorf("read the greeting: %w", err)
	}
	method := byte(socksNoMethod)
	for _, m := range methods {
		if m == socksNoAuth {
			method = socksNoAuth
		}
	}
	if _, err := rw.Write([]byte{socksVersion, method}); err != nil {
		return "", fmt.Errorf("answer the greeting: %w", err)
	}
	if method == socksNoMethod {
		return "", errors.New("the caller wants authentication, and there is none here")
	}
	if _, err := io.ReadFull(rw, buf[:4]); err != nil {
		return "", fmt.Errorf("read the request: %w", err)
	}
	version, command, kind := buf[0], buf[1], buf[3]
	if version != socksVersion {
		return "", socksErrorf(socksFailure, "request of SOCKS version %d, want %d", version, socksVersion)
	}
	dest, err = readSOCKSAddr(rw, kind, buf[:])
	if err == nil && command != socksConnect {
		err = socksErrorf(socksBadCommand, "command %d, and only CONNECT (%d) is done here", command, socksConnect)
	}
	return dest, err
}

// readSOCKSAddr reads the address of a request; buf is room for it.
func readSOCKSAddr(r io.Reader, kind byte, buf []byte) (string, error) {
	size := 0
	switch kind {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksDomain:
		if _, err := io.ReadFull(r, buf[:1]); err != nil {
			return "", fmt.Errorf("read the request: %w", err)
		}
		size = int(buf[0])
	default:
		return "", socksErrorf(socksBadAddrType, "address of type %d, want IPv4 (1), a name (3) or IPv6 (4)", kind)
	}
	var port [2]byte
	if _, err := io.ReadFull(r, buf[:size]); err != nil {
		return "", fmt.Errorf("read the request: %w", err)
	}
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", fmt.Errorf("read the request: %w", err)
	}
	host := string(buf[:size])
	if kind != socksDomain {
		ip, _ := netip.AddrFromSlice(buf[:size])
		host = ip.Unmap().String()
	} else if err := checkName(host); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1]))), nil
}

func checkName(name string) error {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f || name[i] == '[' || name[i] == ']' {
			return socksErrorf(socksFailure, "host name %.100q: want printable ASCII without spaces and brackets", name)
		}
	}
	if name == "" {
		return socksErrorf(socksFailure, "the host name is empty")
	}
	return nil
}

// answerSOCKS writes a reply. bound is the local end of the connection that was
// made, or nil.
func answerSOCKS(w io.Writer, reply socksReply, bound net.Addr) error {
	at := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if tcp, ok := bound.(*net.TCPAddr); ok && tcp.AddrPort().IsValid() {
		at = tcp.AddrPort()
	}
	ip := at.Addr().Unmap()
	msg := []byte{socksVersion, byte(reply), 0, socksIPv4}
	if ip.Is6() {
		msg[3] = socksIPv6
	}
	msg = append(msg, ip.AsSlice()...)
	_, err := w.Write(append(msg, byte(at.Port()>>8), byte(at.Port())))
	return err
}

// replyFor chooses the reply that says best what went wrong.
func replyFor(err error) socksReply {
	var reply *socksError
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &reply):
		return reply.reply
	case errors.Is(err, syscall.ECONNREFUSED):
		return socksRefused
	case errors.Is(err, syscall.ENETUNREACH):
		return socksNoNetwork
	case errors.Is(err, syscall.EHOSTUNREACH), errors.As(err, &dns):
		return socksNoHost
	case errors.As(err, &timeout) && timeout.Timeout():
		return socksTimeout
	}
	return socksFailure
}

// socks serves one connection of SOCKS5. It returns when the connection is of no
// more use; the caller closes it.
func (e *egress) socks(conn net.Conn, deadline time.Time) {
	o := &outgoing{outcome: failed}
	_ = conn.SetDeadline(deadline) // if it is broken, reading says so
	var asked error
	if o.dest, asked = readSOCKS(conn); asked != nil {
		var reply *socksError
		if errors.As(asked, &reply) {
			_ = answerSOCKS(conn, reply.reply, nil) // nobody else is left to tell
			lingerClose(conn)
		}
		e.layer.log.Debug("bad call by SOCKS5", "error", asked)
		return
	}
	ctx, cancel := context.WithCancel(e.layer.ctx)
	defer cancel()
	gone := watchEnd(conn, cancel)
	up, err := e.socksConnect(ctx, o)
	defer func() {
		e.count.calls.Add(1)
		e.count.end(o.outcome, o.patience.spent)
	}()
	if gone() && e.layer.ctx.Err() == nil {
		o.outcome = canceled
		if err == nil {
			up.Close()
		}
		return
	}
	if err != nil {
		e.layer.log.Debug("call of the node failed", "destination", o.dest, "by", "SOCKS5", "error", err)
		_ = conn.SetDeadline(time.Now().Add(dialTimeout))
		_ = answerSOCKS(conn, replyFor(err), nil) // nobody else is left to tell
		lingerClose(conn)
		return
	}
	defer up.Close()
	if !e.tunnels.add(up) {
		return
	}
	defer e.tunnels.remove(up)
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	if err := answerSOCKS(conn, socksSucceeded, up.LocalAddr()); err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	o.outcome = answered
	stream.Splice(conn, up)
}

// socksConnect dials the destination, by the same rules as CONNECT.
func (e *egress) socksConnect(ctx context.Context, o *outgoing) (net.Conn, error) {
	if err := e.notItself(o.dest); err != nil {
		return nil, &socksError{socksNotAllowed, err}
	}
	if err := e.label(ctx, o); err != nil {
		return nil, err
	}
	if _, _, err := e.resolve(o); err != nil {
		return nil, &socksError{socksNotAllowed, err}
	}
	return e.connect(ctx, o)
}

// watchEnd cancels when the caller goes away while it waits. The function that it
// returns ends the watch and reports whether the caller has gone; what the caller
// has sent meanwhile is still there.
func watchEnd(conn net.Conn, cancel context.CancelFunc) (gone func() bool) {
	_ = conn.SetReadDeadline(time.Time{}) // the wait has bounds of its own
	ended := make(chan bool, 1)
	go func() {
		_, err := firstByte(conn)
		var timeout net.Error
		left := err != nil && !(errors.As(err, &timeout) && timeout.Timeout())
		if left {
			cancel()
		}
		ended <- left
	}()
	return func() bool {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // ends the watch
		left := <-ended
		_ = conn.SetReadDeadline(time.Time{})
		return left
	}
}

// lingerClose ends the connection so that the caller reads the last reply, even
// where something that it has sent was not read.
func lingerClose(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(socksLinger))
		_, _ = io.CopyN(io.Discard, conn, maxSOCKSRest)
	}
}

const (
	// socksLinger is how long a caller that was refused has to end.
	socksLinger = time.Second
	// maxSOCKSRest bounds what is read of it, in bytes.
	maxSOCKSRest = 1 << 20
)

// EgressEnvironment returns the environment that has programs call by the egress
// proxy: those of HTTP by absolute URLs, those of HTTPS and gRPC by CONNECT, and
// others by SOCKS5, with names unresolved. It is empty without a proxy.
func (l *Layer) EgressEnvironment() map[string]string {
	env := map[string]string{}
	if l.out == nil {
		return env
	}
	host := l.EgressURL().Host
	for name, value := range map[string]string{"HTTP_PROXY": "http://" + host, "HTTPS_PROXY": "http://" + host, "ALL_PROXY": "socks5h://" + host} {
		env[name] = value
		env[strings.ToLower(name)] = value
	}
	return env
}

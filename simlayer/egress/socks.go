package egress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// SOCKS5 is RFC 1928, with the credentials of RFC 1929. What is here: CONNECT.
const (
	socksVersion   = 5
	socksNoAuth    = 0
	socksPassword  = 2
	socksNoMethod  = 0xff
	socksConnect   = 1
	socksIPv4      = 1
	socksDomain    = 3
	socksIPv6      = 4
	socksSucceeded = 0

	credentialsVersion = 1
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
// no more than that, and answers its greeting and its credentials, which known judges; nil
// asks for none. The request is the host and port to call. An error that is a socksError
// wants a reply; any other does not.
func readSOCKS(rw io.ReadWriter, known func(user, password string) bool) (dest string, err error) {
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
	method := byte(socksNoAuth)
	if known != nil {
		method = socksPassword
	}
	if !bytes.Contains(methods, []byte{method}) {
		method = socksNoMethod
	}
	if _, err := rw.Write([]byte{socksVersion, method}); err != nil {
		return "", fmt.Errorf("answer the greeting: %w", err)
	}
	switch {
	case method == socksPassword:
		if err := readCredentials(rw, known); err != nil {
			return "", err
		}
	case method == socksNoMethod && known != nil:
		return "", errors.New("the caller has no credentials")
	case method == socksNoMethod:
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

// readCredentials is RFC 1929: a caller that is not known gets an answer that says so.
func readCredentials(rw io.ReadWriter, known func(user, password string) bool) error {
	var shown [2]string
	var buf [256]byte
	if _, err := io.ReadFull(rw, buf[:1]); err != nil {
		return fmt.Errorf("read the credentials: %w", err)
	}
	if buf[0] != credentialsVersion {
		return fmt.Errorf("credentials of version %d, want %d", buf[0], credentialsVersion)
	}
	for i := range shown {
		if _, err := io.ReadFull(rw, buf[:1]); err != nil {
			return fmt.Errorf("read the credentials: %w", err)
		}
		text := buf[1:][:buf[0]]
		if _, err := io.ReadFull(rw, text); err != nil {
			return fmt.Errorf("read the credentials: %w", err)
		}
		shown[i] = string(text)
	}
	answer := []byte{credentialsVersion, 0}
	ok := known(shown[0], shown[1])
	if !ok {
		answer[1] = 1
	}
	if _, err := rw.Write(answer); err != nil {
		return fmt.Errorf("answer the credentials: %w", err)
	}
	if !ok {
		return errors.New("the caller's credentials are wrong")
	}
	return nil
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

package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// DialError is a failure to connect: nothing of a call was sent.
type DialError struct{ Err error }

func (e *DialError) Error() string { return e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// IsDialError reports whether there is one in err.
func IsDialError(err error) bool {
	var d *DialError
	return errors.As(err, &d)
}

// NewTransport returns a transport to one address, by HTTP/1.1 or HTTP/2 without
// TLS. dial, which connects to it, says by a DialError that it cannot. Connections
// that nobody has used for idle are closed: that should be less than the other
// side's, which else closes one in the instant in which a call is written to it.
func NewTransport(dial func(context.Context) (net.Conn, error), http2 bool, idle time.Duration) *http.Transport {
	t := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		Protocols:              new(http.Protocols),
		DisableCompression:     true,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idle,
		ExpectContinueTimeout:  expectTimeout,
		MaxResponseHeaderBytes: maxHead,
	}
	t.Protocols.SetHTTP1(!http2)
	t.Protocols.SetUnencryptedHTTP2(http2)
	return t
}

// NewServer returns a server of HTTP/1.1 and of HTTP/2 without TLS that answers
// nothing by itself.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            headTimeout,
		MaxHeaderBytes:               maxHead,
		DisableGeneralOptionsHandler: true,
		Protocols:                    new(http.Protocols),
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

package control

import (
	"context"
	"net"
	"net/http"
	"time"

	"moult/store/bundle"
)

// Deed is a call that changes something, or was to: what an audit needs of it.
type Deed struct {
	Time time.Time `json:"time"`
	// Call is the last part of its path: "inject", "trust" (an order, or other signed
	// metadata), "join" or "leave".
	Call string `json:"call"`
	// By is "socket" or the address that a call by TCP came from, and UID whose the process
	// was that called by the socket, where the kernel tells.
	By  string `json:"by"`
	UID *int   `json:"uid,omitempty"`
	// Release, Digest and Message are those of what was accepted.
	Release bundle.Version `json:"release,omitempty"`
	Digest  bundle.Digest  `json:"digest,omitzero"`
	Message string         `json:"message,omitempty"`
	// Error is why nothing came of it; "" where something did.
	Error string `json:"error,omitempty"`
}

type uidKey struct{}

// withUID notes whose process is at the other end of a connection.
func withUID(ctx context.Context, c net.Conn) context.Context {
	if u, ok := c.(*net.UnixConn); ok {
		if uid, ok := peerUID(u); ok {
			return context.WithValue(ctx, uidKey{}, uid)
		}
	}
	return ctx
}

// noting has a call noted when it has been answered.
func noting(note func(Deed), call string, f func(*http.Request) (any, error)) func(*http.Request) (any, error) {
	if note == nil {
		return f
	}
	return func(r *http.Request) (any, error) {
		v, err := f(r)
		d := Deed{Time: time.Now().UTC().Truncate(time.Millisecond), Call: call, By: "socket"}
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !ok || local.Network() != "unix" {
			d.By = r.RemoteAddr
		}
		if uid, ok := r.Context().Value(uidKey{}).(int); ok {
			d.UID = &uid
		}
		if a, ok := v.(Accepted); ok && err == nil {
			d.Release, d.Digest, d.Message = a.Version, a.Digest, a.Message
		}
		if err != nil {
			d.Error = err.Error()
		}
		note(d)
		return v, err
	}
}

package control

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"moult/store/bundle"
)

// Deed is a call that changes something, or was to: what an audit needs of it.
type Deed struct {
	Time time.Time `json:"time"`
	// Call is the last part of its path: "inject", "trust" (an order, or other signed
	// metadata), "backup", "join", "replace" (of the agent by another build) or "leave".
	Call string `json:"call"`
	// By is "socket" or the address that a call by TCP came from, and UID whose the process
	// was that called by the socket, where the kernel tells.
	By  string `json:"by"`
	UID *int   `json:"uid,omitempty"`
	// Release is that of the bundle, or of the newest order, that was accepted with this call;
	// 0: there was none. Digest and Message are those of what was accepted.
	Release bundle.Version `json:"release,omitempty"`
	Digest  bundle.Digest  `json:"digest,omitzero"`
	Message string         `json:"message,omitempty"`
	// What was asked for, a line each: "order of release 3: paused, turn 1", "metadata 14, root
	// 2", "members: 12 enrolled, 1 evicted", or an address that was to be joined by. It is
	// bounded, and not checked: Error says what was refused.
	What []string `json:"what,omitempty"`
	// Error is why nothing came of it; "" where something did.
	Error string `json:"error,omitempty"`
}

type uidKey struct{}

// sandboxKey is that of true where the caller is in a sandbox.
type sandboxKey struct{}

// withUID notes whose process is at the other end of a connection.
func withUID(ctx context.Context, c net.Conn) context.Context {
	if u, ok := c.(*net.UnixConn); ok {
		if sandboxed(u) {
			ctx = context.WithValue(ctx, sandboxKey{}, true)
		}
		if uid, ok := peerUID(u); ok {
			return context.WithValue(ctx, uidKey{}, uid)
		}
	}
	return ctx
}

// noting has a call noted when it has been answered.
func noting(note func(Deed), call string, f func(*http.Request, *Deed) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		d := Deed{Call: call, By: "socket"}
		v, err := f(r, &d)
		if note == nil {
			return v, err
		}
		d.Time = time.Now().UTC().Truncate(time.Millisecond)
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !ok || local.Network() != "unix" {
			d.By = r.RemoteAddr
		}
		if uid, ok := r.Context().Value(uidKey{}).(int); ok {
			d.UID = &uid
		}
		if a, ok := v.(Accepted); ok && err == nil {
			d.Digest, d.Message = a.Digest, a.Message
			if call == "inject" {
				d.Release = a.Version
			}
		}
		if err != nil {
			d.Release, d.Error = 0, err.Error()
		}
		note(d)
		return v, err
	}
}

// say notes one line of what was asked for.
func (d *Deed) say(text string) {
	if len(text) > maxWhatText {
		text = strings.ToValidUTF8(text[:maxWhatText], "") + "…"
	}
	switch {
	case len(d.What) < maxWhat:
		d.What = append(d.What, text)
	case len(d.What) == maxWhat:
		d.What = append(d.What, "and more")
	}
}

// signed notes what somebody signed, as far as it can be read without being checked.
func (d *Deed) signed(s Signed) {
	var set struct {
		Roots     [][]byte `json:"roots"`
		Timestamp []byte   `json:"timestamp"`
	}
	var stamp struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	if json.Unmarshal(s.Set, &set) == nil {
		// Before the first release there is no timestamp.
		if err := json.Unmarshal(set.Timestamp, &stamp); err != nil && len(set.Timestamp) > 0 {
			d.say("a timestamp that cannot be read")
		}
		d.say(fmt.Sprintf("metadata %d, root %d", stamp.Signed.Version, len(set.Roots)))
	}
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(s.Orders))) {
		d.Release = max(d.Release, n)
		d.say(fmt.Sprintf("order of release %d: %s", n, OrderSays(s.Orders[n])))
	}
	var members struct {
		Members, Evicted []json.RawMessage
	}
	if s.Members != nil && json.Unmarshal(s.Members, &members) == nil {
		d.say(fmt.Sprintf("members: %d enrolled, %d evicted", len(members.Members), len(members.Evicted)))
	}
}

// OrderSays is what tells one order of a release from another.
func OrderSays(order []byte) string {
	var o struct {
		State     string
		Serial    uint64
		Turn      int
		Finalized bool
		Classes   map[string]struct{ Skipped []int }
	}
	if err := json.Unmarshal(order, &o); err != nil {
		return "unreadable"
	}
	says := fmt.Sprintf("%.20s, turn %d, serial %d", o.State, o.Turn, o.Serial)
	skipped := 0
	for _, c := range o.Classes {
		skipped += len(c.Skipped)
	}
	if skipped > 0 {
		says += fmt.Sprintf(", %d skipped", skipped)
	}
	if o.Finalized {
		says += ", finalized"
	}
	return says
}

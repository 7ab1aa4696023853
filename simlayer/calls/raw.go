package calls

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/observe"
	"moult/simlayer/proxy"
	"moult/simlayer/relay"
	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
)

// relay takes one connection to the node. Its call ends with the connection.
func (f *Port) relay(conn net.Conn) {
	defer f.calls.Conns.Leave()
	began := time.Now()
	r := &relaying{port: f, conn: conn, patience: gate.Patience{From: sourceOf(conn)}}
	up, err := r.connect()
	route := f.calls.Gate.Routing()
	if r.ticket != nil {
		defer f.calls.Gate.Leave(r.ticket)
		route = r.ticket.Route
	}
	version := f.VersionUnder(route)
	end := tally.Answered
	if err == nil {
		counted := f.Tally.Begin(version, nil)
		defer counted.Done()
	}
	switch {
	case err != nil:
		f.calls.Log.Debug("connection refused", "service", f.Name, "from", version, "to", route.Native, "err", err)
		stream.Reset(conn)
		end = tally.Failed
		if so.AsRefusal(err).Denied {
			end = tally.Denied
		}
	case !stream.SpliceIdle(conn, up, &f.calls.buffers) && r.wasCut():
		end = tally.Failed
	}
	native := route.Native
	if r.ticket == nil && end != tally.Denied {
		native = 0 // it came to nobody
	}
	f.Ended(version, native, end, r.patience.Spent(), began)
}

// relaying is one connection of a raw protocol on its way.
type relaying struct {
	port     *Port
	conn     net.Conn
	patience gate.Patience
	ticket   *ticket // once connect has succeeded

	mu   sync.Mutex
	up   net.Conn
	cutC bool
}

// connect gets through the gate to the node's software.
func (r *relaying) connect() (net.Conn, error) {
	c := r.port.calls
	pause := minPause
	for {
		ctx, cancel := context.WithCancel(c.Ctx)
		defer cancel()
		t := &ticket{Of: r}
		if err := c.Gate.Enter(ctx, &r.patience, t, func() { cancel(); r.cut() }); err != nil {
			return nil, err
		}
		up, err := r.dial(ctx, t.Route)
		if err == nil {
			r.ticket = t
			return up, nil
		}
		c.Gate.Leave(t)
		if !proxy.IsDialError(err) || ctx.Err() != nil {
			return nil, err
		}
		if over := c.Gate.Pause(c.Ctx, &r.patience, t.Route, pause); over != nil {
			return nil, fmt.Errorf("%w: %w", over, err)
		}
		pause = min(2*pause, maxPause)
	}
}

func (r *relaying) dial(ctx context.Context, route *routes.Route) (net.Conn, error) {
	version := r.port.VersionUnder(route)
	path, backend, err := route.Path(version, r.port.Name)
	if err != nil {
		return nil, err
	}
	if !path.Plain {
		return nil, so.Deny(0, "raw connections cannot be simulated by rules")
	}
	if err := r.port.room(route, path, version); err != nil {
		return nil, err
	}
	if o := route.Observer; o != nil && version > route.Native {
		if err := o.Current(ctx); err != nil {
			return nil, err
		}
	}
	up, err := backend.Dial(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cutC {
		up.Close()
		return nil, errCut
	}
	r.up = up
	return up, nil
}

// cut ends the connection: what both sides have said so far passes, and then callers
// see its end, not a reset.
func (r *relaying) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutC = true
	if r.up == nil {
		r.conn.Close()
		return
	}
	until := time.Now().Add(linger)
	for _, c := range []net.Conn{r.conn, r.up} {
		_ = c.SetWriteDeadline(until)
		stream.CloseRead(c)
	}
}

// Lasts implements gate.Call: where a call of a raw protocol ends nobody can see.
func (r *relaying) Lasts(entered time.Time) (from time.Time, how relay.Lasting) {
	return entered.Add(RawGrace), relay.Endless
}

// Yield implements gate.Call.
func (r *relaying) Yield(entered, by time.Time) gate.Yielding { return gate.GoesLoose }

func (r *relaying) wasCut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cutC
}

// SeenBy reports whether all calls of HTTP that are at the node were let in under
// routings with this observer.
func (c *Calls) SeenBy(o *observe.Observer) bool {
	return c.Gate.Every(func(r *routes.Route, of gate.Call) bool {
		_, raw := of.(*relaying)
		return raw || r.Observer == o
	})
}

package calls

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/proxy"
	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// Config is what a layer gives to its calls.
type Config struct {
	Ctx   context.Context // ends with the layer
	Gate  *gate.Gate[*routes.Route]
	Conns *stream.Quota // connections that are open: Take and the server leave what was entered
	Tasks *stream.Tasks // goroutines that must have ended before the layer has
	Log   *slog.Logger
	// Held and Open bound the calls that wait at once, and the connections that are open.
	// Replay bounds, in bytes, a body that is read before its call is let in, so
	// that a slow caller cannot delay a drain and the call can be tried again.
	// Longer bodies are streamed.
	Held, Open, Replay int
	ByProxy            bool // net/http answers all that is simulated
}

// Calls are the calls of one layer: what those of all its ports have in common.
type Calls struct {
	Config
	// LastingAfter is when a call is taken for one that never ends by itself, or not
	// soon: an answer whose length nothing tells and that has gone on for so long, or a
	// call that could be made again and has had no answer for so long (a long poll).
	// It is not changed once there are calls.
	LastingAfter time.Duration
	// Past and Future count the calls that came to objects.
	Past, Future tally.ByVersion

	buffers     stream.Buffers
	simulations sync.Pool // memory of calls that are simulated
}

// New returns calls of which there are none yet.
func New(c Config) *Calls {
	return &Calls{Config: c, LastingAfter: lastingAfter}
}

// ticket is a call's stay at the node.
type ticket = gate.Ticket[*routes.Route]

// heldRefusal makes the end of a wait a refusal. last is why the call did not get
// through when it was let in, or nil; via is the version whose object process it
// then called, or 0.
func (c *Calls) heldRefusal(err, last error, via bundle.Version, limit time.Duration) error {
	var refusal *so.Refusal
	switch {
	case errors.Is(err, gate.ErrHeldTooLong) && last != nil && via != 0:
		refusal = so.Fail(http.StatusServiceUnavailable, last, "the simulation object for version %d is not running: it did not take calls for %v; try again later: %v", via, limit, last)
	case errors.Is(err, gate.ErrHeldTooLong) && last != nil:
		refusal = so.Fail(http.StatusServiceUnavailable, last, "the node did not take calls for %v; try again later: %v", limit, last)
	case errors.Is(err, gate.ErrHeldTooLong):
		refusal = so.Fail(http.StatusServiceUnavailable, nil, "the node is down for longer than calls are held, which is %v; try again later", limit)
	case errors.Is(err, gate.ErrHeldTooMany):
		refusal = so.Fail(http.StatusServiceUnavailable, nil, "the node is down, and %d calls wait for it already; try again later", c.Held)
	case errors.Is(err, gate.ErrClosed):
		refusal = so.Fail(http.StatusServiceUnavailable, nil, "the agent of this node ends; try again later")
	default:
		return err
	}
	refusal.RetryAfter = retryAfter
	return refusal
}

// cutRefusal is for a call that was cut before it had an answer.
func cutRefusal(err error) *so.Refusal {
	refusal := so.Fail(http.StatusServiceUnavailable, err, "%v; whether it was carried out is not known", errCut)
	refusal.RetryAfter = retryAfter
	return refusal
}

func explain(unsafe bool, err error) error { return proxy.Explain("the node", unsafe, err) }

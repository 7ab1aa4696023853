package observe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// Start begins to tell the object for callers of v. Where told is set it
// was told before, by an observer that is no more.
func Start(v bundle.Version, path string, told bool, log *slog.Logger) *Observer {
	o := &Observer{
		version: v, path: path, log: log, ended: make(chan struct{}), wake: make(chan struct{}, 1),
		settling: make(chan struct{}),
		// Another observer's events must not be taken for this one's. Readers of
		// JSON may know no larger numbers.
		numbers: rand.Uint64N(1 << 52),
	}
	o.ctx, o.stop = context.WithCancel(context.Background())
	if told {
		o.miss(0, "the agent, or the object's place in it, is a new one")
	}
	go o.run()
	return o
}

// run tells the object of one event after the other until close.
func (o *Observer) run() {
	defer close(o.ended)
	for {
		s := o.next()
		if s == nil {
			return
		}
		o.tell(s)
	}
}

// next waits for the first event of the queue, until nothing of it is still to
// come, or has not come for long. It is nil after close.
func (o *Observer) next() *sighting {
	for o.ctx.Err() == nil {
		o.mu.Lock()
		var wait time.Duration = -1
		if len(o.queue) > 0 {
			s := o.queue[0]
			if wait = time.Until(s.until); s.done || wait <= 0 {
				s.finish()
				if s.event.Number == 0 {
					o.numbers++
					s.event.Number = o.numbers
				}
				o.telling = true
				o.mu.Unlock()
				return s
			}
		}
		o.mu.Unlock()
		var late *time.Timer
		var tooLate <-chan time.Time
		if wait > 0 {
			late = time.NewTimer(wait)
			tooLate = late.C
		}
		select {
		case <-o.wake:
		case <-tooLate:
		case <-o.ctx.Done():
		}
		if late != nil {
			late.Stop()
		}
	}
	return nil
}

// tell tells the object of an event until it has taken it in, or cannot.
func (o *Observer) tell(s *sighting) {
	body, err := json.Marshal(s.event)
	if err != nil {
		o.over(s, err) // no header or body can make it fail
		return
	}
	broken := 0
	for pause := minPause; ; pause = min(2*pause, tellPause) {
		err := o.post(s.event.Service, body)
		var failed *notTaken
		switch {
		case err == nil:
			o.over(s, nil)
			return
		case o.ctx.Err() != nil:
			return
		case errors.As(err, &failed) && failed.final():
			broken = tellTries
		case !proxy.IsDialError(err) && failed == nil:
			broken++ // it may be this event that breaks it
		}
		if broken >= tellTries && s.event.Event == so.ObservedCall {
			o.over(s, err)
			return
		}
		o.trouble(err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-o.ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (o *Observer) trouble(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.problem == "" {
		o.log.Warn("a simulation object cannot be told of calls; it is tried again", "object", o.version, "err", err)
	}
	o.problem = err.Error()
}

// over takes the first event from the queue. Where the object could not take it in,
// for err, it is told that instead.
func (o *Observer) over(s *sighting, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.telling = false
	if err != nil {
		// In its place, so that the object hears of it before anything else.
		o.missed++
		o.log.Warn("a simulation object has not taken in a call", "object", o.version, "method", s.event.Method, "uri", s.event.URI, "err", err)
		s.event = so.Observed{Event: so.ObservedMissed, Missed: 1, Why: "it could not be taken in: " + err.Error()}
		if o.whole {
			s.then = so.ObservedBegin // of those that follow, all are told
		}
		return
	}
	o.problem = ""
	if s.event.Event == so.ObservedCall {
		o.told++
	}
	if s.then != "" {
		s.event, s.then = so.Observed{Event: s.then}, ""
		return
	}
	o.queue[0] = nil
	o.queue = o.queue[1:]
	if len(o.queue) == 0 {
		o.queue = nil
	}
	o.bytes -= s.bytes
	o.settled++
	close(o.settling)
	o.settling = make(chan struct{})
}

// notTaken is an answer of the object by which it has not taken an event in.
type notTaken struct {
	status int
	reason string
}

func (e *notTaken) Error() string {
	return fmt.Sprintf("it answered %d when it was told of a call: %s", e.status, e.reason)
}

// final reports whether it is no use to try again: 503 says that it is.
func (e *notTaken) final() bool { return e.status != http.StatusServiceUnavailable }

// post sends one event to the object's address of a service; "" is any.
func (o *Observer) post(service string, body []byte) error {
	at := o.at(service)
	if at == nil {
		return &proxy.DialError{Err: errors.New("it has no address")}
	}
	ctx, cancel := context.WithTimeout(o.ctx, tellTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://object"+o.path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := at.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	reason, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason)) // what comes of it will do
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return &notTaken{resp.StatusCode, string(bytes.TrimSpace(reason))}
}

// at returns the way to the object for a service now; nil: there is none.
func (o *Observer) at(service string) Way {
	o.mu.Lock()
	defer o.mu.Unlock()
	names := slices.Sorted(maps.Keys(o.places))
	if len(names) == 0 {
		return nil
	}
	if service == "" {
		service = names[0]
	}
	return o.places[service].Way
}

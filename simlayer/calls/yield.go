package calls

import (
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/relay"
)

// cut ends the call soon. The gate calls it.
func (f *front) cut() {
	f.mu.Lock()
	if f.cancel != nil {
		f.cancel(errCut)
	}
	f.soon()
	f.do(f.core.Cuts())
}

// soon bounds what is still being written. mu is held.
func (f *front) soon() {
	if !f.core.Begun() {
		return
	}
	until := time.Now().Add(linger)
	_ = f.conn.SetWriteDeadline(until)
	if f.up != nil {
		_ = f.up.conn.SetWriteDeadline(until)
	}
}

// Lasts implements gate.Call.
func (f *front) Lasts(entered time.Time) (from time.Time, how relay.Lasting) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastsFrom(entered)
}

// lastsFrom is lasts with mu held.
func (f *front) lastsFrom(entered time.Time) (from time.Time, how relay.Lasting) {
	switch how = f.core.Lasting(); how {
	case relay.Polls:
		from = entered.Add(f.calls.LastingAfter)
	case relay.Streams:
		from = f.call.streams.Add(f.calls.LastingAfter)
	}
	return from, how
}

// Yield implements gate.Call.
func (f *front) Yield(entered, by time.Time) gate.Yielding {
	f.mu.Lock()
	if from, how := f.lastsFrom(entered); how == relay.Ends || from.After(by) {
		f.mu.Unlock()
		return gate.GoesOn
	}
	do, again := f.core.Yields()
	if f.core.WasCut() {
		f.soon()
	}
	f.do(do)
	if again {
		return gate.WaitsNow
	}
	return gate.EndsNow
}

// closeIdle closes the connection if no request is on its way; else the one that
// is becomes the last.
func (f *front) closeIdle() {
	f.mu.Lock()
	h := f.http2
	f.do(f.core.Retire())
	if h != nil {
		h.Drain()
	}
}

// close closes the connection, whatever is on.
func (f *front) close() { f.conn.Close() }

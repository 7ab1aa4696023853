package simlayer

import (
	"context"
	"sync"
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/routes"
)

// Leave is for before a Close after which another layer takes the listening sockets over
// (Config.Sockets): no call is to fail meanwhile, and those that come wait for that layer.
//
// First callers of HTTP are told, by the answers to their calls, to connect anew. Then no
// connection is accepted any more; who comes waits in the kernel. The calls that are at the
// node have until ctx ends; those that are not meant to end are not waited for. Callers who
// have not called for weanTime lose their connection between two calls, as they do by any
// server that is stopped. What is held since the node is down is not waited for either: Close
// refuses it. Nor are connections of raw protocols, which Close ends, and answers by UDP.
func (l *Layer) Leave(ctx context.Context) {
	l.leaving.Store(true)
	l.apply.Lock()
	all := l.listeners()
	l.apply.Unlock()
	for _, f := range all {
		f.Wean()
	}
	l.quiet(ctx, all, weanTime)
	l.apply.Lock()
	l.endStrays(func(stray) bool { return true })
	l.apply.Unlock()
	for _, f := range all {
		if f.packets == nil {
			f.closeSocket()
			f.accepts.Wait()
		}
	}
	if l.out != nil {
		l.out.Stop()
	}
	l.quiet(ctx, all, freshTime) // who was accepted last calls now
	var ended []<-chan struct{}
	for _, f := range all {
		ended = append(ended, f.Retire())
	}
	var own sync.WaitGroup
	if l.out != nil {
		own.Go(func() { l.out.Finish(ctx) })
	}
	l.gate.Finish(ctx, l.calls.LastingAfter, func() {})
	own.Wait()
	// Until the last answers are written. Calls that never end are not waited for, and no event
	// tells their connections from the others: where there are any, it is for a while.
	while := lastTime
	if none := l.gate.Every(func(*routes.Route, gate.Call) bool { return false }); none {
		while = 0
	}
	within(ctx, ended, while)
}

// quiet returns when no connection is relayed, or after a while.
func (l *Layer) quiet(ctx context.Context, all []*listener, while time.Duration) {
	var none []<-chan struct{}
	for _, f := range all {
		none = append(none, f.None())
	}
	within(ctx, none, while)
}

// within waits until all of these are closed, until ctx ends, and for a while at most if that
// is not 0.
func within(ctx context.Context, all []<-chan struct{}, while time.Duration) {
	var late <-chan time.Time
	if while != 0 {
		timer := time.NewTimer(while)
		defer timer.Stop()
		late = timer.C
	}
	for _, one := range all {
		select {
		case <-one:
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

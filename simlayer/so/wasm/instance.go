package wasm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/http-wasm/http-wasm-host-go/api/handler"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"moult/simlayer/so"
	"moult/simlayer/so/cputime"
	"moult/simlayer/so/wasm/fuel"
)

// instance is one running guest. It answers one call at a time, on the goroutine
// of that call.
type instance struct {
	o                     *Object
	mod                   api.Module
	onRequest, onResponse api.Function
	onObserved            api.Function // nil where the guest does not observe
	stack                 [2]uint64    // of the calls into the guest
	features              handler.Features
	used                  time.Time
	out, errs             output
	broken                bool
	calls                 int
	ctx                   *guestContext
	call                  *call // nil while it starts
	deadline              time.Time
	left                  time.Duration // of the guest's time
	spent                 cputime.Watch
	light                 int // cheap host calls until the next look at the clock
	logged, droppedLogs   int
	limit                 time.Duration // for messages
}

// guestContext is the context of what a guest does: it knows the instance.
type guestContext struct {
	context.Context
	in *instance
}

type instanceKey struct{}

func (c *guestContext) Value(key any) any {
	if key == (instanceKey{}) {
		return c.in
	}
	return c.Context.Value(key)
}

func instanceOf(ctx context.Context) *instance {
	return ctx.Value(instanceKey{}).(*instance)
}

// Reasons for which a guest is ended.
var (
	errTime     = cputime.ErrOver
	errCanceled = errors.New("the caller has gone")
)

// start makes a new instance.
func (o *Object) start(ctx context.Context) (*instance, error) {
	in := &instance{o: o, used: time.Now()}
	in.out, in.errs = output{in: in}, output{in: in, keep: true}
	in.ctx = &guestContext{ctx, in}
	in.limit, in.left = o.config.Limits.StartTime, o.config.Limits.StartTime
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions().
		WithStdout(&in.out).WithStderr(&in.errs).WithRandSource(rand.Reader).
		WithSysWalltime().WithSysNanotime().WithNanosleep(in.sleep).WithOsyield(runtime.Gosched)
	err := in.timed(func() error {
		mod, err := o.runtime.InstantiateModule(in.ctx, o.compiled, config)
		if err != nil {
			return err
		}
		in.mod = mod
		for _, name := range []string{"_initialize", "_start"} {
			if f := mod.ExportedFunction(name); f != nil {
				_, err := f.Call(in.ctx)
				return err
			}
		}
		return nil
	})
	if err != nil {
		in.close()
		return nil, fmt.Errorf("start the guest: %w", in.explain(err))
	}
	in.end()
	return in, nil
}

// enter makes the functions that call the guest. They keep the guest's call stack,
// which grows and never shrinks, so new ones are made from time to time.
func (in *instance) enter() {
	if in.calls++; in.calls%renewCalls == 1 {
		in.onRequest = in.mod.ExportedFunction(handler.FuncHandleRequest)
		in.onResponse = in.mod.ExportedFunction(handler.FuncHandleResponse)
		in.onObserved = in.mod.ExportedFunction(HandleObserved)
	}
}

func (in *instance) close() {
	if in.mod != nil {
		// Nothing of a guest outlives it, so nothing can fail to be saved.
		_ = in.mod.Close(context.Background())
	}
}

// begin gives the instance to a call.
func (in *instance) begin(c *call) {
	in.enter()
	in.call, c.in = c, in
	in.ctx.Context = c.req.Context()
	in.limit, in.left = in.o.config.Limits.CallTime, in.o.config.Limits.CallTime
	in.logged, in.droppedLogs = 0, 0
	in.errs.kept = ""
}

func (in *instance) end() {
	in.out.flush()
	in.errs.flush()
	if in.droppedLogs > 0 {
		in.o.config.Log.Warn("wasmGuestLogsDropped", "object", in.o.name(), "lines", in.droppedLogs)
	}
	in.call = nil
	in.ctx.Context = context.Background()
}

// timed runs f, which runs the guest, within the time that it has left.
func (in *instance) timed(f func() error) error {
	in.deadline, in.spent = time.Now().Add(in.left), cputime.Start()
	in.light = lightCalls
	err := f()
	left := time.Until(in.deadline)
	if left <= 0 {
		left = max(in.left-in.spent.Used(), 0) // the machine was busy with other things
	}
	in.left = left
	return err
}

// pause runs f without counting its time.
func (in *instance) pause(f func()) {
	start := time.Now()
	f()
	in.deadline = in.deadline.Add(time.Since(start))
}

// check ends the guest when its time is over.
func (in *instance) check() {
	in.light = lightCalls
	if in.ctx.Context.Err() != nil {
		panic(errCanceled)
	}
	if in.spent.Over(in.deadline, time.Now(), in.left) {
		panic(errTime)
	}
}

// cheap counts a host function that takes little time itself.
func (in *instance) cheap() {
	if in.light--; in.light < 0 {
		in.check()
	}
}

// sleep is what poll_oneoff of WASI does.
func (in *instance) sleep(ns int64) {
	left := time.Until(in.deadline)
	t := time.NewTimer(min(time.Duration(ns), left))
	defer t.Stop()
	select {
	case <-t.C:
		if ns > 0 && time.Duration(ns) > left {
			panic(errTime) // asleep it needs no processor
		}
	case <-in.ctx.Context.Done():
	}
	in.check()
}

// tickModule is the import that the fuel package adds.
var tickModule = hostModule{fuel.TickModule, []hostFunction{{
	name: fuel.TickName, params: "i", results: "i", anytime: true,
	run: func(in *instance, stack []uint64) {
		in.check()
		stack[0] = grant
	},
}}}

// handleRequest calls the guest.
func (in *instance) handleRequest() (handler.CtxNext, error) {
	err := in.timed(func() error { return in.onRequest.CallWithStack(in.ctx, in.stack[:]) })
	if err != nil {
		return 0, in.failed(err)
	}
	return handler.CtxNext(in.stack[0]), nil
}

func (in *instance) handleResponse(reqCtx uint32, failed bool) error {
	in.stack[0], in.stack[1] = uint64(reqCtx), 0
	if failed {
		in.stack[1] = 1
	}
	err := in.timed(func() error { return in.onResponse.CallWithStack(in.ctx, in.stack[:]) })
	if err != nil {
		return in.failed(err)
	}
	return nil
}

// failed makes what the caller gets of an error of the guest.
func (in *instance) failed(err error) error {
	in.broken = true
	var stop *stopped
	if errors.As(err, &stop) {
		return stop.err
	}
	if errors.Is(err, errCanceled) {
		return in.ctx.Context.Err()
	}
	err = in.explain(err)
	in.o.config.Log.Warn("wasmGuestFailed", "object", in.o.name(), "method", in.call.req.Method, "path", in.call.req.URL.Path, "err", err)
	status := http.StatusInternalServerError
	if errors.Is(err, errTime) {
		status = http.StatusGatewayTimeout
	}
	return so.Fail(status, err, "%s failed: %s", in.o.name(), firstLine(err))
}

// explain says in one line why a guest has ended, before its stack.
func (in *instance) explain(err error) error {
	var exit *sys.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("the guest exited with status %d", exit.ExitCode())
	}
	if errors.Is(err, errTime) {
		return fmt.Errorf("the guest did not end within %v: %w", in.limit, err)
	}
	// A language's runtime says what has happened, and then traps.
	if text := in.errs.tail(); text != "" {
		return fmt.Errorf("the guest said %q: %w", text, err)
	}
	return err
}

// firstLine returns an error without the guest's stack.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	line = strings.TrimSuffix(line, " (recovered by wazero)")
	return strings.Replace(line, "wasm error: ", "", 1)
}

// stopped is panicked with by host functions that end a call: err is what the
// caller gets.
type stopped struct{ err error }

func (s *stopped) Error() string { return s.err.Error() }
func (s *stopped) Unwrap() error { return s.err }

func stop(err error) { panic(&stopped{err}) }

// misuse ends a guest that has called a host function as it must not.
func misuse(format string, args ...any) { panic(fmt.Errorf(format, args...)) }

// output is what a guest writes to its standard output or errors.
type output struct {
	in   *instance
	keep bool // the first line of the call, for messages
	line []byte
	kept string
}

// Write implements io.Writer. It logs whole lines.
func (w *output) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, found := bytes.Cut(p, []byte("\n"))
		w.line = append(w.line, line[:min(len(line), MaxLogLine-len(w.line))]...)
		if p = rest; found {
			w.flush()
		}
	}
	return n, nil
}

func (w *output) flush() {
	if len(w.line) == 0 {
		return
	}
	if w.keep && (w.kept == "" || bytes.HasPrefix(w.line, []byte("panic: "))) {
		w.kept = string(w.line[:min(len(w.line), 200)])
	}
	if w.in.mayLog() {
		w.in.o.config.Log.Info("wasmGuestWrote", "object", w.in.o.name(), "line", string(w.line))
	}
	w.line = w.line[:0]
}

func (w *output) tail() string {
	w.flush()
	text := w.kept
	w.kept = ""
	return text
}

// mayLog counts a line of the guest's.
func (in *instance) mayLog() bool {
	if in.logged == MaxLogLines {
		in.droppedLogs++
		return false
	}
	in.logged++
	return true
}

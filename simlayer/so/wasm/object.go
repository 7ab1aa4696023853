package wasm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/http-wasm/http-wasm-host-go/api/handler"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"moult/simlayer/so"
	"moult/simlayer/so/wasm/fuel"
	"moult/store/bundle"
)

// Config says what an object is and what it may use.
type Config struct {
	// Name is for messages: "the past object of version 2", say.
	Name string
	// From is the version whose calls the guest answers, To the one it calls.
	From, To bundle.Version
	// State is the guest's durable state. Without it, a guest that uses state
	// fails. The caller opens and closes it.
	State KV
	// Observe says that the guest is told of calls, by Object.Observe: it must
	// export HandleObserved.
	Observe bool
	// Guest is what the guest reads by get_config.
	Guest []byte
	// CacheDir is a folder for compiled code, kept between processes; "" for
	// none. Whoever can write there can run code here.
	CacheDir string
	// Log gets what guests log, and why they fail.
	Log *slog.Logger
	// Limits bounds the guest; see DefaultLimits.
	Limits Limits
}

// Validate says what is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Log == nil {
		errs = append(errs, errors.New("no logger"))
	}
	if len(c.Guest) > MaxConfig {
		errs = append(errs, fmt.Errorf("the guest's configuration has %d bytes, at most %d", len(c.Guest), MaxConfig))
	}
	return errors.Join(append(errs, c.Limits.Validate())...)
}

// Object is a simulation object that a WebAssembly guest carries out.
type Object struct {
	config   Config
	runtime  wazero.Runtime
	files    wazero.CompilationCache
	compiled wazero.CompiledModule

	// slots has an entry for each call that is being answered.
	slots chan struct{}
	// closing is closed when no more calls are taken.
	closing   chan struct{}
	closeOnce sync.Once

	mu   sync.Mutex
	idle []*instance // the one used last is the last
}

var _ so.Object = (*Object)(nil)

// Open makes an object of a guest: it checks, rewrites and compiles module, and
// starts a first instance. An error says what is wrong with the module. ctx bounds
// opening only. The caller closes the object.
func Open(ctx context.Context, module []byte, config Config) (*Object, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("open a wasm object: %w", err)
	}
	o := &Object{
		config:  config,
		slots:   make(chan struct{}, config.Limits.Instances),
		closing: make(chan struct{}),
	}
	if err := o.open(ctx, module); err != nil {
		o.closeRuntime(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("%s: %w", o.name(), err)
	}
	return o, nil
}

func (o *Object) name() string {
	if o.config.Name == "" {
		return "the wasm object"
	}
	return o.config.Name
}

func (o *Object) open(ctx context.Context, module []byte) error {
	changed, err := fuel.Instrument(module)
	if err != nil {
		return err
	}
	if changed.Pages > o.config.Limits.Pages {
		return fmt.Errorf("its memory starts with %d pages of 64 KiB, at most %d are allowed", changed.Pages, o.config.Limits.Pages)
	}
	if err := checkExports(changed.Exports, o.config.Observe); err != nil {
		return err
	}
	cache := newCache(o.config.CacheDir, changed.Wasm, o.config.Log)
	if err := o.compile(ctx, changed.Wasm, cache); err != nil {
		return err
	}
	if err := o.checkImports(changed.Imports); err != nil {
		return err
	}
	if err := checkSignatures(o.compiled); err != nil {
		return err
	}
	in, err := o.start(ctx)
	if err != nil {
		return err
	}
	o.idle = append(o.idle, in)
	return nil
}

// compileWith compiles module and gives it the host's modules.
func (o *Object) compileWith(ctx context.Context, module []byte, files wazero.CompilationCache) error {
	config := wazero.NewRuntimeConfig().WithMemoryLimitPages(o.config.Limits.Pages)
	if files != nil {
		config = config.WithCompilationCache(files)
	}
	o.runtime, o.files = wazero.NewRuntimeWithConfig(ctx, config), files
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, o.runtime); err != nil {
		return fmt.Errorf("make the module %s: %w", wasi_snapshot_preview1.ModuleName, err)
	}
	for _, m := range []hostModule{tickModule, handlerModule, moultModule} {
		if err := m.instantiate(ctx, o.runtime); err != nil {
			return fmt.Errorf("make the module %s: %w", m.name, err)
		}
	}
	compiled, err := o.runtime.CompileModule(ctx, module)
	if err != nil {
		return fmt.Errorf("compile the module: %w", err)
	}
	o.compiled = compiled
	return nil
}

func checkExports(exports []fuel.Export, observes bool) error {
	if want := (fuel.Export{Name: HandleObserved, Kind: fuel.Func}); observes && !slices.Contains(exports, want) {
		return fmt.Errorf("the module exports no %v %q: it cannot observe", want.Kind, want.Name)
	}
	for _, want := range []fuel.Export{
		{Name: handler.FuncHandleRequest, Kind: fuel.Func},
		{Name: handler.FuncHandleResponse, Kind: fuel.Func},
		{Name: "memory", Kind: fuel.Memory},
	} {
		if !slices.Contains(exports, want) {
			return fmt.Errorf("the module exports no %v %q: it is no handler of http-wasm", want.Kind, want.Name)
		}
	}
	return nil
}

func (o *Object) checkImports(imports []fuel.Import) error {
	for _, i := range imports {
		host := o.runtime.Module(i.Module)
		if host == nil || i.Kind != fuel.Func {
			return fmt.Errorf("the module imports the %v %s.%s: there are only functions of %s, %s and %s",
				i.Kind, i.Module, i.Name, handler.HostModule, ModuleName, wasi_snapshot_preview1.ModuleName)
		}
		if _, ok := host.ExportedFunctionDefinitions()[i.Name]; !ok {
			return fmt.Errorf("the module imports the function %s.%s, which is not there in version %d of the ABI", i.Module, i.Name, ABIVersion)
		}
	}
	return nil
}

func checkSignatures(m wazero.CompiledModule) error {
	i32, i64 := api.ValueTypeI32, api.ValueTypeI64
	for _, want := range []struct {
		name            string
		params, results []api.ValueType
		text            string
	}{
		{handler.FuncHandleRequest, nil, []api.ValueType{i64}, "() -> i64"},
		{handler.FuncHandleResponse, []api.ValueType{i32, i32}, nil, "(i32, i32) -> ()"},
		{HandleObserved, []api.ValueType{i32}, nil, "(i32) -> ()"},
		{"_initialize", nil, nil, "() -> ()"},
		{"_start", nil, nil, "() -> ()"},
	} {
		f := m.ExportedFunctions()[want.name]
		if f != nil && (!slices.Equal(f.ParamTypes(), want.params) || !slices.Equal(f.ResultTypes(), want.results)) {
			return fmt.Errorf("the module exports %s with another signature than %s", want.name, want.text)
		}
	}
	return nil
}

// Answer implements so.Object. A guest that fails makes a refusal, and its
// instance is not used again.
func (o *Object) Answer(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	c := newCall(o, r, next)
	if err := c.prefetch(); err != nil {
		return nil, err
	}
	in, err := o.acquire(r.Context())
	if err != nil {
		return nil, err
	}
	in.begin(c)
	resp, err := c.answer(in)
	in.end()
	o.release(in)
	return resp, err
}

// acquire returns an instance that nobody else uses.
func (o *Object) acquire(ctx context.Context) (*instance, error) {
	if err := o.slot(ctx); err != nil {
		return nil, err
	}
	o.mu.Lock()
	if n := len(o.idle); n > 0 {
		in := o.idle[n-1]
		o.idle = o.idle[:n-1]
		o.mu.Unlock()
		return in, nil
	}
	o.mu.Unlock()
	in, err := o.start(ctx)
	if err != nil {
		<-o.slots
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		o.config.Log.Error("wasmStartFailed", "object", o.name(), "err", err)
		return nil, so.Fail(http.StatusInternalServerError, err, "%s does not start: %s", o.name(), firstLine(err))
	}
	return in, nil
}

// slot takes a slot. Whoever has one keeps Close from freeing what it uses.
func (o *Object) slot(ctx context.Context) error {
	if err := o.wait(ctx); err != nil {
		return err
	}
	select {
	case <-o.closing:
		<-o.slots
		return o.closed()
	default:
		return nil
	}
}

func (o *Object) closed() error {
	return so.Fail(http.StatusServiceUnavailable, nil, "%s is closed", o.name())
}

func (o *Object) wait(ctx context.Context) error {
	select {
	case o.slots <- struct{}{}:
		return nil
	default:
	}
	wait := time.NewTimer(o.config.Limits.WaitTime)
	defer wait.Stop()
	select {
	case o.slots <- struct{}{}:
		return nil
	case <-o.closing:
		return o.closed()
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		r := so.Fail(http.StatusServiceUnavailable, nil, "%s answers %d calls at once, and none ended in %v", o.name(), o.config.Limits.Instances, o.config.Limits.WaitTime)
		r.RetryAfter = time.Second
		return r
	}
}

// release gives an instance back. One that has failed or grown is closed, and so
// are those that nobody has needed for long.
func (o *Object) release(in *instance) {
	now := time.Now()
	var drop []*instance
	if in.broken || in.mod.Memory().Size()>>16 > o.config.Limits.Pages/2 {
		drop = append(drop, in)
	}
	o.mu.Lock()
	if drop == nil {
		in.used = now
		o.idle = append(o.idle, in)
	}
	for len(o.idle) > 0 && now.Sub(o.idle[0].used) > idleTime {
		drop = append(drop, o.idle[0])
		o.idle = slices.Delete(o.idle, 0, 1)
	}
	o.mu.Unlock()
	for _, d := range drop {
		d.close()
	}
	<-o.slots
}

// Close waits until the calls that are being answered have ended, or until ctx is
// done, and then frees all. New calls are refused. After an error it may be called
// again.
func (o *Object) Close(ctx context.Context) error {
	o.closeOnce.Do(func() { close(o.closing) })
	for taken := range cap(o.slots) {
		select {
		case o.slots <- struct{}{}:
		case <-ctx.Done():
			for range taken {
				<-o.slots
			}
			return fmt.Errorf("close %s: calls are still being answered: %w", o.name(), ctx.Err())
		}
	}
	o.mu.Lock()
	o.idle = nil
	o.closeRuntime(ctx)
	o.mu.Unlock()
	for range cap(o.slots) {
		<-o.slots
	}
	return nil
}

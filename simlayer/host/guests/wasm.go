package guests

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"moult/simlayer/host/control"
	"moult/simlayer/so"
	"moult/simlayer/so/wasm"
	"moult/store/durable"
)

// Opener makes an object out of the file of its release. What it returns may
// implement io.Closer.
type Opener func(context.Context, Opening) (so.Object, error)

// Opening is what an Opener needs to know.
type Opening struct {
	control.Hosted
	Data  []byte // of Path
	Cache string // folder for what was compiled; "" is none
	Log   *slog.Logger
}

// pageBytes is the size of a page of wasm memory.
const pageBytes = 64 << 10

// OpenWasm is the opener of control.KindWasm.
func OpenWasm(ctx context.Context, o Opening) (so.Object, error) {
	limits := wasm.DefaultLimits()
	if o.Memory > 0 {
		limits.Pages = uint32(min(max(o.Memory/pageBytes, 1), wasm.MaxPages))
	}
	if o.Timeout > 0 {
		limits.CallTime = o.Timeout
	}
	config := wasm.Config{
		Name: fmt.Sprintf("the simulation object for version %d", o.Version),
		From: o.Version, To: o.To, Observe: o.Observe != "", CacheDir: o.Cache, Log: o.Log, Limits: limits,
	}
	if o.State != "" {
		state, err := wasm.OpenFileKV(o.State)
		if err != nil {
			return nil, err
		}
		config.State = state
	}
	obj, err := wasm.Open(ctx, o.Data, config)
	if err != nil {
		return nil, err
	}
	return wasmObject{obj}, nil
}

// wasmObject is closed when no call uses it any more.
type wasmObject struct{ *wasm.Object }

// Close implements io.Closer.
func (o wasmObject) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return o.Object.Close(ctx)
}

// Compile compiles the module in file into the folder cache.
func Compile(ctx context.Context, cache, file string, log *slog.Logger) error {
	data, err := durable.ReadFile(file, maxWasm)
	if err != nil {
		return err
	}
	return wasm.Compile(ctx, data, cache, log)
}

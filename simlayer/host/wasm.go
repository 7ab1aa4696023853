package host

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"moult/simlayer/so"
	"moult/simlayer/so/wasm"
)

// opener makes an object out of the file of its release. What it returns may
// implement io.Closer.
type opener func(context.Context, opening) (so.Object, error)

type opening struct {
	hosted
	data  []byte // of hosted.Path
	cache string // folder for what was compiled; "" is none
	log   *slog.Logger
}

// pageBytes is the size of a page of wasm memory.
const pageBytes = 64 << 10

// openWasm is the opener of KindWasm.
func openWasm(ctx context.Context, o opening) (so.Object, error) {
	limits := wasm.DefaultLimits()
	if o.Memory > 0 {
		limits.Pages = uint32(min(max(o.Memory/pageBytes, 1), wasm.MaxPages))
	}
	if o.Timeout > 0 {
		limits.CallTime = o.Timeout
	}
	config := wasm.Config{
		Name: fmt.Sprintf("the simulation object for version %d", o.Version),
		From: o.Version, To: o.To, Observe: o.Observe != "", CacheDir: o.cache, Log: o.log, Limits: limits,
	}
	if o.State != "" {
		state, err := wasm.OpenFileKV(o.State)
		if err != nil {
			return nil, err
		}
		config.State = state
	}
	obj, err := wasm.Open(ctx, o.data, config)
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

package wasm

import (
	"context"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// hostModule is a module whose functions guests import.
type hostModule struct {
	name      string
	functions []hostFunction
}

// hostFunction is a function that guests import. Its signature has a letter for
// each parameter and result: i for i32, I for i64.
type hostFunction struct {
	name, params, results string
	// anytime says that it may be called while the guest starts.
	anytime bool
	run     func(in *instance, stack []uint64)
}

func (m hostModule) instantiate(ctx context.Context, rt wazero.Runtime) error {
	b := rt.NewHostModuleBuilder(m.name)
	for _, f := range m.functions {
		b.NewFunctionBuilder().
			WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
				in := instanceOf(ctx)
				if in.mod = mod; in.call == nil && !f.anytime {
					misuse("%s.%s is called while the guest starts", m.name, f.name)
				}
				in.cheap()
				f.run(in, stack)
			}), signature(f.params), signature(f.results)).
			Export(f.name)
	}
	_, err := b.Instantiate(ctx)
	return err
}

func signature(s string) []api.ValueType {
	types := make([]api.ValueType, len(s))
	for i, c := range s {
		types[i] = api.ValueTypeI32
		if c == 'I' {
			types[i] = api.ValueTypeI64
		}
	}
	return types
}

// bytes returns a part of the guest's memory: the memory itself, not a copy.
func (in *instance) bytes(at, n uint64) []byte {
	b, ok := in.mod.Memory().Read(uint32(at), uint32(n))
	if !ok {
		misuse("the guest passes %d bytes at %#x, which are not all in its memory", uint32(n), uint32(at))
	}
	return b
}

func (in *instance) text(at, n uint64) string { return string(in.bytes(at, n)) }

// put writes data to the guest's memory if it fits there, and returns its length.
func put[T string | []byte](in *instance, buf, limit uint64, data T) uint64 {
	if n := len(data); n > 0 && uint64(n) <= uint64(uint32(limit)) {
		copy(in.bytes(buf, uint64(n)), data)
	}
	return uint64(len(data))
}

// putList writes texts with a NUL after each if they all fit, and returns their
// count and length as one number.
func putList(in *instance, buf, limit uint64, list []string) uint64 {
	size := 0
	for _, s := range list {
		size += len(s) + 1
	}
	if size > 0 && uint64(size) <= uint64(uint32(limit)) {
		b := in.bytes(buf, uint64(size))
		for _, s := range list {
			b = b[copy(b, s):]
			b[0] = 0
			b = b[1:]
		}
	}
	return uint64(len(list))<<32 | uint64(size)
}

package fuel_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/http-wasm/http-wasm-host-go/tck"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"moult/simlayer/so/wasm/fuel"
)

// section makes a section of a module of at most 127 bytes.
func section(id byte, data ...byte) []byte {
	return append([]byte{id, byte(len(data))}, data...)
}

// moduleOf makes a module of sections.
func moduleOf(sections ...[]byte) []byte { return append(newModule(), bytes.Join(sections, nil)...) }

// function makes a module with the exported function f: (i32) -> i32 of some code,
// of less than 60 bytes, one page of memory and a table of two.
func function(code ...byte) []byte {
	code = append(append([]byte{0}, code...), 0x0b)
	return moduleOf(
		section(1, 1, 0x60, 1, 0x7f, 1, 0x7f), section(3, 1, 0), section(4, 1, 0x70, 0, 2), section(5, 1, 0, 1),
		section(6, 1, 0x7f, 1, 0x41, 0, 0x0b), section(7, 1, 1, 'f', 0, 0),
		section(10, append([]byte{1, byte(len(code))}, code...)...))
}

// run calls f(arg) with units of grant at a time and returns what it gives and how
// many units it took.
func run(t *testing.T, module []byte, arg uint64, grant int32) (result uint64, units int64) {
	t.Helper()
	m, err := fuel.Instrument(module)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer rt.Close(ctx)
	_, err = rt.NewHostModuleBuilder(fuel.TickModule).NewFunctionBuilder().WithFunc(func(left int32) int32 {
		give := max(grant, -left)
		units += int64(give)
		return left + give
	}).Export(fuel.TickName).Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := rt.Instantiate(ctx, m.Wasm)
	if err != nil {
		t.Fatal(err)
	}
	out, err := mod.ExportedFunction("f").Call(ctx, arg)
	if err != nil {
		t.Fatal(err)
	}
	return out[0], units
}

// countdown is a loop of local 0 turns, with some code at each.
func countdown(code ...byte) []byte {
	return append(append([]byte{0x03, 0x40}, code...),
		0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b, 0x41, 7)
}

// TestUnits shows that units bound what is executed: they grow with the turns of
// loops, the length of code and the size of bulk instructions.
func TestUnits(t *testing.T) {
	nops := bytes.Repeat([]byte{1}, 30)
	fill := []byte{0x41, 0, 0x41, 0, 0x41, 0x80, 0x80, 0x04, 0xfc, 11, 0} // 64 KiB
	grow := []byte{0x41, 0, 0x40, 0, 0x1a}
	for _, c := range []struct {
		name     string
		code     []byte
		turns    uint64
		from, to int64
	}{
		{"a loop", countdown(), 1000, 7_000, 8_000},
		{"a longer loop", countdown(nops...), 1000, 37_000, 38_000},
		{"bulk", countdown(fill...), 100, 100 * 1024, 110 * 1024},
		{"growing", countdown(grow...), 100, 100 * 1024, 110 * 1024},
		{"straight code", append(nops, 0x41, 7), 1, 31, 40},
	} {
		result, units := run(t, function(c.code...), c.turns, 1)
		if result != 7 || units < c.from || units > c.to {
			t.Errorf("%s: result %d, %d units, want 7, %d to %d", c.name, result, units, c.from, c.to)
		}
		if _, many := run(t, function(c.code...), c.turns, 1<<20); many != 1<<20 {
			t.Errorf("%s: asked for %d units at once", c.name, many)
		}
	}
}

// TestRefused are modules that would reach what the rewriting adds, or that cannot
// be read.
func TestRefused(t *testing.T) {
	cut := function(0x41, 7)
	for _, c := range []struct {
		name, want string
		module     []byte
	}{
		{"empty", "empty", nil},
		{"text", "starts with 28 6d 6f 64", []byte("(module)")},
		{"half a header", "starts with 00 61 73", []byte("\x00as")},
		{"the counter", "global 1 of 1", function(0x41, 7, 0x24, 1, 0x41, 7)},
		{"the local", "local 1 of 1", function(0x20, 1)},
		{"tick", "function 1 of 1", function(0x20, 0, 0x10, 1)},
		{"tick's type", "type 1 of 1", function(0x20, 0, 0x20, 0, 0x11, 1, 0)},
		{"tick as a reference", "function 1 of 1", function(0xd2, 1, 0x1a, 0x41, 7)},
		{"tick imported", "not for guests", moduleOf(section(1, 1, 0x60, 0, 0), append([]byte{2, 19, 1, 10}, append([]byte(fuel.TickModule), 4, 't', 'i', 'c', 'k', 0, 0)...))},
		{"the counter exported", "global 0 of 0", moduleOf(section(7, 1, 1, 'g', 3, 0))},
		{"tick started", "function 0 of 0", moduleOf(section(8, 0))},
		{"tick in a table", "function 0 of 0", moduleOf(section(4, 1, 0x70, 0, 2), section(9, 1, 0, 0x41, 0, 0x0b, 1, 0))},
		{"a block of tick's type", "type 1 of 1", function(0x20, 0, 0x02, 1, 0x0b)},
		{"a label", "label 1 of 1", function(0x0c, 1)},
		{"no end", "ends too early", moduleOf(section(1, 1, 0x60, 0, 0), section(3, 1, 0), section(10, 1, 3, 0, 1, 1))},
		{"bytes after the end", "after the end of a function", function(0x41, 7, 0x0b, 0x41, 7)},
		{"too many locals", "locals", moduleOf(section(1, 1, 0x60, 0, 0), section(3, 1, 0), section(10, 1, 8, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7f, 0x0b))},
		{"a large table", "at most 1048576", moduleOf(section(4, 1, 0x70, 0, 0xff, 0xff, 0xff, 0xff, 0x0f))},
		{"many of nothing", "99 types in 0 bytes", moduleOf(section(1, 99))},
		{"out of order", "out of order", moduleOf(section(3, 0), section(1, 0))},
		{"twice", "twice", moduleOf(section(1, 0), section(1, 0))},
		{"a code too few", "0 function bodies for 1 functions", moduleOf(section(1, 1, 0x60, 0, 0), section(3, 1, 0))},
		{"exceptions", "exceptions are not supported", moduleOf(section(13, 0))},
		{"a tail call", "tail calls are not supported", function(0x20, 0, 0x12, 0)},
		{"atomics", "threads are not supported", function(0xfe, 3, 0)},
		{"shared memory", "not supported", moduleOf(section(5, 1, 3, 1, 1))},
		{"two memories", "2 memories", moduleOf(section(5, 2, 0, 1, 0, 1))},
		{"relaxed SIMD", "relaxed SIMD", function(0xfd, 0x80, 2)},
		{"typed references", "typed references", function(0x14, 0)},
		{"garbage collection", "only functions are", moduleOf(section(1, 1, 0x5f, 0))},
		{"an extended constant", "constant expression", moduleOf(section(6, 1, 0x7f, 0, 0x41, 1, 0x41, 1, 0x6a, 0x0b))},
		{"half a section", "a part of", cut[:len(cut)-1]},
		{"an unknown section", "unknown section 99", moduleOf(section(99, 0))},
	} {
		before := bytes.Clone(c.module)
		_, err := fuel.Instrument(c.module)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
		if !bytes.Equal(before, c.module) {
			t.Errorf("%s: the module was changed", c.name)
		}
	}
	if _, err := fuel.Instrument([]byte("(module)")); !errors.Is(err, fuel.ErrNotWasm) {
		t.Errorf("%v is not ErrNotWasm", err)
	}
	if _, err := fuel.Instrument(make([]byte, fuel.MaxModule+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a module that is too large: %v", err)
	}
}

func TestModuleIsDescribed(t *testing.T) {
	m, err := fuel.Instrument(tck.GuestWASM)
	if err != nil {
		t.Fatal(err)
	}
	var handles, uses bool
	for _, e := range m.Exports {
		handles = handles || e == fuel.Export{Name: "handle_request", Kind: fuel.Func}
	}
	for _, i := range m.Imports {
		uses = uses || i == fuel.Import{Module: "http_handler", Name: "get_uri", Kind: fuel.Func}
	}
	if !handles || !uses || m.Pages == 0 {
		t.Errorf("exports %v, imports %v, %d pages", m.Exports, m.Imports, m.Pages)
	}
}

// FuzzInstrument looks for modules that make Instrument panic, or that the
// rewriting makes valid or not valid.
func FuzzInstrument(f *testing.F) {
	f.Add(newModule())
	f.Add(function(countdown(0x41, 0, 0x41, 0, 0x41, 9, 0xfc, 11, 0)...))
	f.Add(function(0x20, 0, 0x04, 0x7f, 0x41, 1, 0x05, 0x41, 2, 0x0b))
	f.Add(function(0x20, 0, 0x10, 0))
	f.Add(function(0x20, 0, 0x41, 0, 0x11, 0, 0))
	if dir, err := specFolder(); err == nil {
		files, _ := filepath.Glob(filepath.Join(dir, "v2/testdata/*.0.wasm"))
		for _, path := range files {
			if data, err := os.ReadFile(path); err == nil && len(data) < 2000 {
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, wasm []byte) {
		m, err := fuel.Instrument(wasm)
		if err != nil || len(wasm) > 1<<16 {
			return
		}
		ctx := t.Context()
		rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithMemoryLimitPages(16).WithCoreFeatures(api.CoreFeaturesV2))
		defer rt.Close(ctx)
		_, plain := rt.CompileModule(ctx, wasm)
		_, changed := rt.CompileModule(ctx, m.Wasm)
		if plain != nil && strings.Contains(plain.Error(), "custom") {
			return // the rewriting drops these, and with them what is wrong in them
		}
		if (plain == nil) != (changed == nil) {
			t.Fatalf("the original: %v; rewritten: %v", plain, changed)
		}
	})
}

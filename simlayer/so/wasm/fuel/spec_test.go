package fuel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"moult/simlayer/so/wasm/fuel"
)

// specFolder is where wazero's own module has the test suite of the WebAssembly
// specification, as binary modules and lists of calls.
var specFolder = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "internal/integration_test/spectest")
	_, err = os.Stat(filepath.Join(dir, "v2/testdata"))
	return dir, err
})

func specDir(t testing.TB) string {
	t.Helper()
	dir, err := specFolder()
	if err != nil {
		t.Skipf("the test suite of the specification, in wazero's source, is not here: %v", err)
	}
	return dir
}

type command struct {
	Type, Name, As, Filename string
	ModuleType               string `json:"module_type"`
	Line                     int
	Action                   struct {
		Type, Field, Module string
		Args                []value
	}
}

type value struct {
	Type     string
	LaneType string `json:"lane_type"`
	Value    any
}

// bits returns the value as a call takes it.
func (v value) bits() []uint64 {
	if v.Type != "v128" {
		s, _ := v.Value.(string)
		return []uint64{number(v.Type, s)}
	}
	var out [2]uint64
	lanes := v.Value.([]any)
	width := 128 / len(lanes)
	for i, lane := range lanes {
		n := number(v.LaneType, lane.(string)) & (math.MaxUint64 >> (64 - width))
		out[i*width/64] |= n << (i * width % 64)
	}
	return out[:]
}

func number(kind, s string) uint64 {
	switch {
	case s == "" || s == "null":
		return 0
	case strings.Contains(s, "nan") && kind == "f32":
		return 0x7fc00000
	case strings.Contains(s, "nan"):
		return 0x7ff8000000000000
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		signed, _ := strconv.ParseInt(s, 10, 64)
		n = uint64(signed)
	}
	switch {
	case kind == "externref":
		n++
	case strings.HasSuffix(kind, "32"):
		n = uint64(uint32(n))
	}
	return n
}

// machine is a runtime with the modules of one file of the suite.
type machine struct {
	rt     wazero.Runtime
	named  map[string]api.Module
	last   api.Module
	change func([]byte) ([]byte, error)
}

func newMachine(t *testing.T, change func([]byte) ([]byte, error), grant func() int32) *machine {
	ctx := t.Context()
	rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	t.Cleanup(func() { rt.Close(context.Background()) })
	m := &machine{rt: rt, named: map[string]api.Module{}, change: change}
	if grant != nil {
		_, err := rt.NewHostModuleBuilder(fuel.TickModule).NewFunctionBuilder().
			WithFunc(func(left int32) int32 {
				if left >= 0 {
					panic("asked for units while some were left")
				}
				return grant()
			}).Export(fuel.TickName).Instantiate(ctx)
		if err != nil {
			t.Fatal(err)
		}
	}
	host, err := os.ReadFile(filepath.Join(specDir(t), "testdata/spectest.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.load(ctx, host, "spectest"); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) load(ctx context.Context, wasm []byte, as string) error {
	wasm, err := m.change(wasm)
	if err != nil {
		return err
	}
	config := wazero.NewModuleConfig().WithStartFunctions().WithName(as)
	mod, err := m.rt.InstantiateWithConfig(ctx, wasm, config)
	if err == nil {
		m.last = mod
	}
	return err
}

// do carries out an action and describes what came out.
func (m *machine) do(ctx context.Context, c command) (result string) {
	mod := m.last
	if c.Action.Module != "" {
		mod = m.named[c.Action.Module]
	}
	if c.Action.Type == "get" {
		return fmt.Sprintf("%#x", mod.ExportedGlobal(c.Action.Field).Get())
	}
	var args []uint64
	for _, a := range c.Action.Args {
		args = append(args, a.bits()...)
	}
	f := mod.ExportedFunction(c.Action.Field)
	out, err := f.Call(ctx, args...)
	if err != nil {
		text, _, _ := strings.Cut(err.Error(), "\n")
		return "error: " + text
	}
	types := f.Definition().ResultTypes()
	for i := range out {
		// Which NaN comes out is not fixed.
		if len(types) == len(out) {
			switch types[i] {
			case api.ValueTypeF32:
				if math.IsNaN(float64(math.Float32frombits(uint32(out[i])))) {
					out[i] = 0x7fc00000
				}
			case api.ValueTypeF64:
				if math.IsNaN(math.Float64frombits(out[i])) {
					out[i] = 0x7ff8000000000000
				}
			case 0x70: // funcref
				// The address of a function, another in each runtime.
				out[i] = min(out[i], 1)
			}
		}
	}
	return fmt.Sprintf("%#x", out)
}

// TestSpecification runs the test suite of WebAssembly 2.0 on original and
// rewritten modules side by side: they compute the same, trap for the same
// reason, and what was not valid does not become so.
func TestSpecification(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(specDir(t), "v2/testdata/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of the suite: %v", err)
	}
	var calls, modules, ticks, invalid int
	for i, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		if testing.Short() && i%6 != 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c, m, k, bad, differ := runSpec(t, path, instrument)
			for _, d := range differ {
				t.Error(d)
			}
			calls, modules, ticks, invalid = calls+c, modules+m, ticks+k, invalid+bad
		})
	}
	t.Logf("%d calls of %d modules compared, %d ticks; %d modules that are not valid refused", calls, modules, ticks, invalid)
	if calls < 1000 || modules < 100 || ticks < 1000 || invalid < 100 {
		t.Error("the suite was not run")
	}
}

// TestSpecificationCatches shows that the comparison finds a rewriting that is
// wrong, or that makes valid what is not.
func TestSpecificationCatches(t *testing.T) {
	for name, change := range map[string]func([]byte) ([]byte, error){
		"i32": func(wasm []byte) ([]byte, error) {
			out, err := instrument(wasm)
			return bytes.ReplaceAll(out, []byte{0x20, 0, 0x20, 1, 0x6a}, []byte{0x20, 0, 0x20, 1, 0x6b}), err
		},
		"fac": func(wasm []byte) ([]byte, error) {
			out, err := instrument(wasm)
			return bytes.ReplaceAll(out, []byte{0x7d, 0x10, 1, 0x7e}, []byte{0x7d, 0x10, 1, 0x7c}), err
		},
		"binary": func(wasm []byte) ([]byte, error) {
			if _, err := instrument(wasm); err != nil {
				return newModule(), nil
			}
			return instrument(wasm)
		},
	} {
		_, _, _, _, differ := runSpec(t, filepath.Join(specDir(t), "v2/testdata", name+".json"), change)
		if len(differ) == 0 {
			t.Errorf("%s: nothing was found", name)
		}
	}
}

// newModule returns a module with nothing in it.
func newModule() []byte { return []byte("\x00asm\x01\x00\x00\x00") }

func runSpec(t *testing.T, path string, change func([]byte) ([]byte, error)) (calls, modules, ticks, invalid int, differ []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var suite struct{ Commands []command }
	if err := json.Unmarshal(data, &suite); err != nil {
		t.Fatal(err)
	}
	plain := newMachine(t, func(b []byte) ([]byte, error) { return b, nil }, nil)
	changed := newMachine(t, change, func() int32 { ticks++; return 20 })
	ctx := t.Context()
	for i, c := range suite.Commands {
		read := func() []byte {
			data, err := os.ReadFile(filepath.Join(filepath.Dir(path), c.Filename))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		switch c.Type {
		case "module":
			wasm, as := read(), ""
			if next := i + 1; next < len(suite.Commands) && suite.Commands[next].Type == "register" {
				as = suite.Commands[next].As
			}
			if err := plain.load(ctx, wasm, as); err != nil {
				t.Fatalf("line %d: %v", c.Line, err)
			}
			if err := changed.load(ctx, wasm, as); err != nil {
				if largeTable(err) {
					t.Skipf("line %d: %v", c.Line, err)
				}
				t.Fatalf("line %d: rewritten: %v", c.Line, err)
			}
			modules++
			if c.Name != "" {
				plain.named[c.Name], changed.named[c.Name] = plain.last, changed.last
			}
		case "assert_return", "action", "assert_trap", "assert_exhaustion":
			want, got := plain.do(ctx, c), changed.do(ctx, c)
			if want != got {
				differ = append(differ, fmt.Sprintf("line %d: %s gives %s, rewritten %s", c.Line, c.Action.Field, want, got))
			}
			calls++
		case "assert_malformed", "assert_invalid", "assert_uninstantiable", "assert_unlinkable":
			if c.ModuleType == "text" {
				continue
			}
			wasm := read()
			want, got := plain.load(ctx, wasm, ""), changed.load(ctx, wasm, "")
			if want != nil && got == nil {
				differ = append(differ, fmt.Sprintf("line %d: %s (%s) became valid", c.Line, c.Filename, c.Type))
			}
			invalid++
		}
	}
	return calls, modules, ticks, invalid, differ
}

func largeTable(err error) bool {
	return strings.Contains(err.Error(), "at most 1048576")
}

func instrument(wasm []byte) ([]byte, error) {
	m, err := fuel.Instrument(wasm)
	if err != nil {
		return nil, err
	}
	return m.Wasm, nil
}

package build

import (
	"bytes"
	"fmt"

	"github.com/hashicorp/hcl/v2"

	"moult/store/bundle"
	"moult/store/bundle/hclguard"
	"moult/store/durable"
)

// objectBlock is one of the two blocks that say how callers of a neighbouring
// version are answered.
type objectBlock struct {
	name, callers string
}

var (
	pastBlock   = objectBlock{"past", "callers of the version before"}
	futureBlock = objectBlock{"future", "callers of this version, on nodes that are not upgraded yet,"}
)

const (
	objectKinds = `rules = "file.hcl", wasm = "file.wasm", exec = ["./object"], compatible = true or refuse = "why"`
	// anyProtocol is what can answer callers of services that do not speak http.
	anyProtocol = `exec = ["./object"], compatible = true or refuse = "why"`
)

// simulation decodes a past or future block of a class whose services are known.
func (d *decoder) simulation(s *classSchema, b *simulationSchema, block objectBlock, c *ClassSpec) (bundle.Simulation, ObjectSpec) {
	upgrade := s.From != nil
	switch {
	case b == nil && upgrade:
		d.fail(s.At, "Missing "+block.name+" block", "Say how %s are answered: %s { … } with one of %s.", block.callers, block.name, objectKinds)
		fallthrough
	case b == nil:
		return bundle.Simulation{}, ObjectSpec{}
	case !upgrade:
		d.fail(b.At, "Needless "+block.name, "Without from the class is installed: it has no neighbouring version.")
		return bundle.Simulation{}, ObjectSpec{}
	}
	before := len(d.diags)
	sim, file, set := d.objectKind(b, c)
	d.objectLimits(b, &sim)
	if block == pastBlock {
		d.needless(b.Observe, "Only the future object stands beside software whose calls it could see.")
	} else {
		d.needless(b.RetireAfter, "The future object goes when its node is upgraded.")
	}
	switch {
	case len(d.diags) > before:
	case set != 1:
		d.fail(b.At, "Bad "+block.name+" block", "It wants exactly one of %s, and has %d.", objectKinds, set)
	case sim.Kind == bundle.SimulateRefuse && (len(sim.Reason) > bundle.MaxReasonBytes || !oneLine(sim.Reason)):
		d.fail(b.Refuse.Expr.Range(), "Bad reason", "Callers are shown it: want one line of at most %d bytes.", bundle.MaxReasonBytes)
	default:
		d.objectFits(b, &sim, c.Upgrade.Services)
	}
	return sim, file
}

// objectKind decodes the attributes of which a block has exactly one, and
// counts them.
func (d *decoder) objectKind(b *simulationSchema, c *ClassSpec) (sim bundle.Simulation, file ObjectSpec, set int) {
	if rules := d.name(b.Rules); rules != "" {
		set++
		sim.Kind, file = bundle.SimulateRules, ObjectSpec{Path: rules, at: b.Rules.Expr.Range()}
	}
	if wasm := d.name(b.Wasm); wasm != "" {
		set++
		sim.Kind, file = bundle.SimulateWasm, ObjectSpec{Path: wasm, at: b.Wasm.Expr.Range()}
	}
	if argv := d.argv(b.Exec, hclguard.References{Instead: insteadForObject}); argv != nil {
		set++
		sim.Kind, sim.Exec = bundle.SimulateExec, argv
		c.program(b.Exec, argv)
	}
	if d.flag(b.Compatible) {
		set++
		sim.Kind = bundle.SimulateCompatible
	}
	if refuse := d.name(b.Refuse); refuse != "" {
		set++
		sim.Kind, sim.Reason = bundle.SimulateRefuse, refuse
	}
	return sim, file, set
}

// objectLimits decodes what stands beside the kind.
func (d *decoder) objectLimits(b *simulationSchema, sim *bundle.Simulation) {
	known := sim.Kind != "" // else that is the problem to tell of
	if sim.Observe = d.flag(b.Observe); known && sim.Observe && !sim.Stateful() {
		d.needless(b.Observe, "Only wasm and exec objects have state that could follow from the calls they see.")
	}
	sim.RetireAfter = d.duration(b.RetireAfter, 0, bundle.MinRetireAfter, bundle.MaxRetireAfter)
	if sim.RetireAfter == bundle.DefaultRetireAfter {
		sim.RetireAfter = 0 // it has one form in a manifest
	}
	if sim.MemoryMax = d.size(b.MemoryMax, bundle.MaxObjectMemory); known && !sim.Stateful() {
		d.needless(b.MemoryMax, "Only wasm and exec objects are given memory of their own.")
	}
	if sim.Timeout = d.duration(b.Timeout, 0, minObjectTime, bundle.MaxObjectTime); known && sim.Kind != bundle.SimulateWasm {
		d.needless(b.Timeout, "Only what a wasm object computes for one call can be bounded.")
	}
}

// needless reports an attribute that means nothing where it stands.
func (d *decoder) needless(a *hcl.Attribute, why string) {
	if a != nil {
		d.fail(a.NameRange, "Needless "+a.Name, "%s", why)
	}
}

// objectFits reports an object that the class has no calls for.
func (d *decoder) objectFits(b *simulationSchema, sim *bundle.Simulation, services map[string]bundle.Service) {
	var a *hcl.Attribute
	switch sim.Kind {
	case bundle.SimulateRules:
		a = b.Rules
	case bundle.SimulateWasm:
		a = b.Wasm
	case bundle.SimulateExec:
		a = b.Exec
	default:
		return
	}
	if len(services) == 0 {
		d.fail(a.NameRange, "Nobody to answer", "The class has no service, and so no callers: use compatible = true.")
		return
	}
	for _, s := range services {
		// A service whose protocol is wrong has been told of already.
		if s.Protocol == bundle.ProtocolHTTP || s.Protocol == "" || sim.Kind == bundle.SimulateExec {
			return
		}
	}
	d.fail(a.NameRange, "Nothing to answer", "An object by %s answers http calls, and no service of the class speaks http: use %s.", a.Name, anyProtocol)
}

// objectFile is an object that is made from a file.
type objectFile struct {
	ObjectSpec
	sim *bundle.Simulation
}

// objects returns the objects of u, which is c's upgrade, that have a file.
func (c *ClassSpec) objects(u *bundle.ClassUpgrade) []objectFile {
	var all []objectFile
	for _, o := range []objectFile{{c.Past, &u.Past}, {c.Future, &u.Future}} {
		if o.Path != "" {
			all = append(all, o)
		}
	}
	return all
}

// object reads and judges the file of an object.
func (b *builder) object(o objectFile) ([]byte, error) {
	path, most, check := b.path(o.Path), int64(bundle.MaxRulesBytes), b.CheckRules
	if o.sim.Kind == bundle.SimulateWasm {
		most, check = bundle.MaxWasmBytes, b.CheckWasm
	}
	data, err := durable.ReadFile(path, most)
	if err != nil {
		return nil, err
	}
	switch {
	case o.sim.Kind == bundle.SimulateWasm:
		err = checkModule(path, data)
	case len(data) == 0:
		err = fmt.Errorf("%s is empty: a file without rules would refuse every call; say refuse = \"why\" instead", path)
	}
	if err == nil && check != nil {
		err = check(path, data)
	}
	return data, err
}

// The first bytes of a WebAssembly module: magic and version 1. What follows is
// for whoever runs it to judge.
const (
	wasmMagic     = "\x00asm"
	wasmModule    = wasmMagic + "\x01\x00\x00\x00"
	wasmComponent = wasmMagic + "\x0d\x00\x01\x00"
)

// checkModule reports what can be said of a file that is no wasm module without
// knowing more of wasm.
func checkModule(path string, data []byte) error {
	const want = "want what `GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared` or `clang --target=wasm32` writes"
	switch {
	case bytes.HasPrefix(data, []byte(wasmModule)):
		return nil
	case len(data) == 0:
		return fmt.Errorf("%s is empty: %s", path, want)
	case bytes.HasPrefix(data, []byte(wasmComponent)):
		return fmt.Errorf("%s is a WebAssembly component: moult runs core modules; %s", path, want)
	case bytes.HasPrefix(data, []byte(wasmMagic)):
		return fmt.Errorf("%s is WebAssembly of a version that moult does not run: %s", path, want)
	}
	return fmt.Errorf("%s is no WebAssembly module: %s", path, want)
}

package host

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/agent/account"
	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
	"moult/simlayer/host/child"
	"moult/simlayer/host/control"
	"moult/store/bundle"
)

// Kinds of Object, as a release names them.
const (
	KindRules      = control.KindRules
	KindWasm       = control.KindWasm
	KindExec       = control.KindExec
	KindCompatible = control.KindCompatible
	KindRefuse     = control.KindRefuse
)

// Config says how a Host runs its processes. Zero fields have defaults.
type Config struct {
	// Dir is a folder of the agent's own that no other Host has: the folder of
	// the sockets is named after it.
	Dir string
	// Program begins the object host: a path and arguments. By default this
	// binary with CommandName. Env is its environment, but for what this package
	// adds: nothing is inherited.
	Program []string
	Env     []string
	// Account is whose the programs of KindExec are; nil: the agent's.
	Account *account.Account
	// Bounds are what they are held to; nil: nothing.
	Bounds *bounds.Bounds
	// Sandbox, with the folders of the object, is what they are held to; nil: none. In one
	// TMPDIR is the folder of the object's state.
	Sandbox *sandbox.Sandbox
	// Services are those of the node.
	Services []Service
	// Memory bounds the object host, in bytes that it may write; 0 is half of the
	// machine's, and at most 4 GiB.
	Memory int64
	// Cache is the folder of compiled wasm; "" is none.
	Cache string

	// Silence is how long the object host may give no sign of life before it is
	// killed; 0 is 2 s. One that works all the while, as a busy machine's does, may
	// for ten times as long.
	Silence time.Duration
	// Grace is how long a process may take to end when asked to; 0 is 5 s.
	Grace time.Duration
	// MinPause and MaxPause bound the pauses between restarts, which double; 0
	// is 100 ms, and 30 s.
	MinPause, MaxPause time.Duration

	Log *slog.Logger // nil: none
}

// Service is one of the node's.
type Service struct {
	Name     string
	Protocol string // bundle.ProtocolHTTP, …
}

// Object is one simulation object.
type Object struct {
	// Version is that of the callers that it answers; To, next to it on the
	// native version's side, is the one that it calls.
	Version, To bundle.Version
	Kind        string

	// Path is the file of KindRules and KindWasm; Reason is for KindRefuse.
	Path   string
	Reason string
	// Dir, Argv and Env are the program of KindExec: the folder to run in, the
	// command (with a path below Dir where it has a slash and is not absolute)
	// and its whole environment but for what this package adds.
	Dir  string
	Argv []string
	Env  []string
	// State is the folder of KindWasm and KindExec for what outlives the process.
	// It is there; nobody else writes to it.
	State string
	// Observe, where it is not "", is the path at which the agent tells an object of
	// KindWasm or KindExec of calls, by POST of an so.Observed as JSON. Nobody else
	// may know it.
	Observe string

	// StartTimeout is how long callers of an exec object wait in its queue before
	// it has taken one, until it is taken for hanging; 0 is 10 s.
	StartTimeout time.Duration
	// Memory bounds an exec program, or a wasm instance, in bytes; 0 is no bound
	// of its own. Timeout bounds what a wasm object computes for one call.
	Memory  int64
	Timeout time.Duration
}

// Objects is all that a Host is to run.
type Objects struct {
	// Native is the version of the node's software, and Node where each of its
	// services is: "host:port" or "unix:/path". A service that is not listed is
	// away: who calls it waits.
	Native bundle.Version
	Node   map[string]string
	// Hold is how long calls wait for a next that is away; 0 is 30 s. Those that
	// wait in a program's stead go by what it was when they began.
	Hold time.Duration
	List []Object
}

func (c Config) withDefaults() Config {
	or := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	or(&c.Silence, defaultSilence)
	or(&c.Grace, defaultGrace)
	or(&c.MinPause, minPause)
	or(&c.MaxPause, max(maxPause, c.MinPause))
	if c.Memory == 0 {
		c.Memory = min(child.MachineMemory()/2, maxDefaultMemory)
	}
	if len(c.Program) == 0 {
		c.Program = []string{child.ThisProgram(), CommandName}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Services = slices.Clone(c.Services)
	return c
}

func (c Config) validate() error {
	switch {
	case c.Dir == "":
		return errors.New("object host: no folder")
	case c.Silence < 0 || c.Grace < 0 || c.MinPause < 0 || c.MaxPause < 0 || c.Memory < 0:
		return errors.New("object host: a time or a size below 0")
	case len(c.Services) == 0 || len(c.Services) > maxServices:
		return fmt.Errorf("object host: %d services, want 1 to %d", len(c.Services), maxServices)
	}
	seen := map[string]string{}
	for _, s := range c.Services {
		if s.Name == "" || strings.ContainsFunc(s.Name, func(r rune) bool { return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-') }) {
			return fmt.Errorf("object host: service %.40q: want a name of a to z, 0 to 9 and -", s.Name)
		}
		if other, taken := seen[variable(s.Name)]; taken {
			return fmt.Errorf("object host: services %q and %q share a variable", other, s.Name)
		}
		seen[variable(s.Name)] = s.Name
		if s.Protocol != bundle.ProtocolHTTP && s.Protocol != bundle.ProtocolTCP && s.Protocol != protocolUDP {
			return fmt.Errorf("object host: service %q: protocol %.40q is not known", s.Name, s.Protocol)
		}
	}
	return nil
}

const protocolUDP = "udp"

// variable is a service's name in the environment.
func variable(service string) string {
	return strings.ToUpper(strings.ReplaceAll(service, "-", "_"))
}

// hosted reports whether o runs in the object host.
func (o Object) hosted() bool { return o.Kind != KindExec }

// same reports whether a process that runs p may go on to run o.
func (o Object) same(p Object) bool {
	return o.Version == p.Version && o.To == p.To && o.Kind == p.Kind && o.Path == p.Path && o.Reason == p.Reason &&
		o.Dir == p.Dir && slices.Equal(o.Argv, p.Argv) && slices.Equal(o.Env, p.Env) && o.State == p.State && o.Observe == p.Observe &&
		o.StartTimeout == p.StartTimeout && o.Memory == p.Memory && o.Timeout == p.Timeout
}

func (o Object) validate(native bundle.Version) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("simulation object for version %d: %s", o.Version, fmt.Sprintf(format, args...))
	}
	switch {
	case o.Version < 1 || o.Version > bundle.MaxVersion || o.Version == native:
		return fail("the native version is %d", native)
	case o.To != towards(o.Version, native):
		return fail("it calls version %d, want %d, which is next on the way to version %d", o.To, towards(o.Version, native), native)
	case o.StartTimeout < 0 || o.Memory < 0 || o.Timeout < 0:
		return fail("a time or a size below 0")
	}
	if o.Observe != "" && (o.Kind != KindWasm && o.Kind != KindExec || !strings.HasPrefix(o.Observe, "/")) {
		return fail("only objects of kind %q and %q can observe, at a path", KindWasm, KindExec)
	}
	switch o.Kind {
	case KindRules, KindWasm:
		if o.Path == "" {
			return fail("no file")
		}
	case KindExec:
		if len(o.Argv) == 0 || o.Argv[0] == "" {
			return fail("no command")
		}
		if o.State == "" {
			return fail("no folder for its state")
		}
	case KindCompatible, KindRefuse:
	default:
		return fail("kind %.40q is not known", o.Kind)
	}
	return nil
}

func towards(v, native bundle.Version) bundle.Version {
	if v < native {
		return v + 1
	}
	return v - 1
}

// byVersion checks objects and returns them by the version that each answers.
func (s Objects) byVersion() (map[bundle.Version]Object, error) {
	if len(s.List) > maxObjects {
		return nil, fmt.Errorf("%d simulation objects, at most %d", len(s.List), maxObjects)
	}
	if s.Hold < 0 {
		return nil, fmt.Errorf("calls of simulation objects are to wait for %v", s.Hold)
	}
	if s.Native < 1 || s.Native > bundle.MaxVersion {
		return nil, fmt.Errorf("native version %d, want 1 to %d", s.Native, bundle.MaxVersion)
	}
	all := map[bundle.Version]Object{}
	for _, o := range s.List {
		if err := o.validate(s.Native); err != nil {
			return nil, err
		}
		if _, twice := all[o.Version]; twice {
			return nil, fmt.Errorf("simulation object for version %d comes twice", o.Version)
		}
		all[o.Version] = o
	}
	for _, v := range slices.Sorted(maps.Keys(all)) {
		if to := all[v].To; to != s.Native {
			if _, ok := all[to]; !ok {
				return nil, fmt.Errorf("simulation object for version %d calls version %d, which no object answers", v, to)
			}
		}
	}
	return all, nil
}

// nextOf returns where calls of version v of a service go: addrs has those of
// objects. It is "" where nobody answers them, or not now.
func (s Objects) nextOf(v bundle.Version, service string, all map[bundle.Version]Object, addrs func(bundle.Version, string) string) string {
	for range len(all) + 1 {
		if v == s.Native {
			return s.Node[service]
		}
		if all[v].Kind != KindCompatible {
			return addrs(v, service)
		}
		v = all[v].To
	}
	return ""
}

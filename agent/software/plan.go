package software

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"moult/agent/account"
	"moult/agent/process"
	"moult/simlayer/attach"
	"moult/store/bundle"
	"moult/store/bundle/placeholder"
)

// Plan is all that is needed to start one version of the software, and to take
// it over.
type Plan struct {
	Version bundle.Version `json:"version"`
	// Dir is the folder to run in. Where there is an Artifact it is the unpacked
	// artifact's, "" while that is not known to be here.
	Dir      string   `json:"dir"`
	Command  []string `json:"command"`
	Services []string `json:"services"`
	// Protocols has those services that do not speak http.
	Protocols map[string]string `json:"protocols,omitempty"`
	Health    bundle.Health     `json:"health"`
	Artifact  bundle.Digest     `json:"artifact"` // zero for adopted software
	Hooks     bundle.Hooks      `json:"hooks,omitzero"`
	// Placeholders is true where Command and Health.Exec have the form of package
	// placeholder.
	Placeholders bool `json:"placeholders,omitempty"`
}

// spec fills in what the release and the operator leave open.
func (s *Software) spec(p Plan, backends map[string]string, who *account.Account) (process.Spec, error) {
	checked := maps.Clone(backends)
	maps.Copy(checked, s.asides(p, backends))
	return s.fillIn(p, s.cfg.State(p.Version), backends, checked, who)
}

// Spec is how programs are run beside the running software of a version, as the checks of
// its health are, with the addresses of its services in MOULT_SERVICE_NAME and its state in
// MOULT_STATE; an error where that version does not run.
func (s *Software) Spec(v bundle.Version) (process.Spec, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.record
	if r.Version != v || !r.names() || r.Plan.Version != v {
		return process.Spec{}, fmt.Errorf("the software of version %d does not run", v)
	}
	spec, err := s.spec(r.Plan, r.Backends, r.account(s.cfg.Account))
	for _, name := range slices.Sorted(maps.Keys(r.Backends)) {
		spec.Env = append(spec.Env, "MOULT_SERVICE_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+r.Backends[name])
	}
	spec.Env = append(spec.Env, "MOULT_STATE="+s.cfg.State(v))
	return spec, err
}

// Finalize tells the running software of a version that its release will not be taken back, by
// the program that the release's author gave for that, if any.
func (s *Software) Finalize(ctx context.Context, v bundle.Version, cu bundle.ClassUpgrade) error {
	if len(cu.Finalized) == 0 {
		return nil
	}
	spec, err := s.Spec(v)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cu.Transform.Timeout))
	defer cancel()
	if err := spec.Do(ctx, cu.Finalized); err != nil {
		return fmt.Errorf("tell the software that release %d is finalized: %w", v, err)
	}
	return nil
}

// fillIn is spec for software with its state in slot, and its services at backends, where
// its health is asked after at checked.
func (s *Software) fillIn(p Plan, slot string, backends, checked map[string]string, who *account.Account) (process.Spec, error) {
	at := place(slot, backends)
	health := p.Health
	argv, err := p.fill(p.Command, at)
	if err == nil {
		health.Exec, err = p.fill(health.Exec, place(slot, checked))
	}
	if err != nil {
		return process.Spec{}, fmt.Errorf("the command of version %d: %w", p.Version, err)
	}
	return process.Spec{
		Dir: p.Dir, Argv: argv, Env: s.environment(at, who), Account: who, Former: s.cfg.Former, Bounds: s.cfg.Bounds, Marker: s.cfg.Node.String(),
		LogPath: filepath.Join(s.cfg.Data, "log", "node.log"), Health: health, HealthAddr: backends[health.Service],
		NotifySocket: filepath.Join(s.cfg.Data, "notify.sock"), DialControl: attach.DialControl, Log: s.cfg.Log,
	}, nil
}

// fill fills in a command line. Plans without Placeholders are of releases that have
// none but the state and addresses; whatever else looks like one is the program's own.
func (p Plan) fill(argv []string, at func(name string) (string, error)) ([]string, error) {
	out := make([]string, len(argv))
	for i, arg := range argv {
		var err error
		if p.Placeholders {
			out[i], err = placeholder.Fill(arg, at)
		} else {
			out[i] = older.ReplaceAllStringFunc(arg, func(found string) string {
				if s, err := at(found[len("${") : len(found)-len("}")]); err == nil {
					return s
				}
				return found
			})
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

var older = regexp.MustCompile(`\$\{(state|service\.[a-z][a-z0-9-]*)\}`)

// place says what placeholders stand for, of software with its state in slot.
func place(slot string, backends map[string]string) func(name string) (string, error) {
	return func(name string) (string, error) {
		if name == placeholder.State {
			return slot, nil
		}
		service, _ := placeholder.ServiceOf(name)
		addr, ok := backends[service]
		if !ok {
			return "", fmt.Errorf("%s has no value here", placeholder.Of(name))
		}
		if name == placeholder.Service+service {
			return addr, nil
		}
		host, port, err := net.SplitHostPort(addr)
		if strings.HasSuffix(name, placeholder.Port) {
			return port, err
		}
		return host, err
	}
}

// asides say where a program that asks after the software's health finds services of
// UDP whose callers may have to wait just then. What cannot be had is left out: then
// the software is not ready, and the log says why.
func (s *Software) asides(p Plan, backends map[string]string) map[string]string {
	found := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(p.Protocols)) {
		if p.Protocols[name] != bundle.ProtocolUDP {
			continue
		}
		addr, err := s.cfg.Layer.Aside(name, p.Version, backends[name])
		if err != nil {
			s.cfg.Log.Error("the software's health cannot be checked", "err", err)
		}
		if addr != "" {
			found[name] = addr
		}
	}
	return found
}

package software

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

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
	// Placeholders is true where Command and Health.Exec have the form of package
	// placeholder.
	Placeholders bool `json:"placeholders,omitempty"`
}

// spec fills in what the release and the operator leave open.
func (s *Software) spec(p Plan, backends map[string]string) (process.Spec, error) {
	slot := s.cfg.State(p.Version)
	at := place(slot, backends)
	health := p.Health
	argv, err := p.fill(p.Command, at)
	if err == nil {
		checked := maps.Clone(backends)
		maps.Copy(checked, s.asides(p, backends))
		health.Exec, err = p.fill(health.Exec, place(slot, checked))
	}
	if err != nil {
		return process.Spec{}, fmt.Errorf("the command of version %d: %w", p.Version, err)
	}
	return process.Spec{
		Dir: p.Dir, Argv: argv, Env: s.environment(at), Account: s.cfg.Account, Marker: s.cfg.Node.String(),
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
			return "", fmt.Errorf("nothing stands for %s here", placeholder.Of(name))
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
			s.cfg.Log.Error("the software's health cannot be asked after", "err", err)
		}
		if addr != "" {
			found[name] = addr
		}
	}
	return found
}

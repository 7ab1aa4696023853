package software

import (
	"maps"
	"net/url"
	"strings"

	"moult/agent/rehearse"
	"moult/store/bundle"
)

// nowhere is an address that nobody listens at.
const nowhere = "127.0.0.1:1"

// Rehearse puts into a rehearsal how the software that a plan says is started there: as ever,
// but on the copy of the state, at addresses of its own, and told of no way to anybody.
func (s *Software) Rehearse(p Plan, j *rehearse.Job) error {
	backends, err := s.places(p, nil)
	if err != nil {
		return err
	}
	last := j.Steps[len(j.Steps)-1]
	p.Dir = last.Dir
	spec, err := s.fillIn(p, j.Slot(last.To), backends, backends, s.cfg.Account)
	if err != nil {
		return err
	}
	j.Env = s.alone(s.Environment())
	j.Software = rehearse.Software{Dir: spec.Dir, Argv: spec.Argv, Env: s.alone(spec.Env), Health: spec.Health, HealthAddr: spec.HealthAddr}
	for _, name := range p.Services {
		protocol := bundle.ProtocolHTTP
		if other := p.Protocols[name]; other != "" {
			protocol = other
		}
		j.Software.Services = append(j.Software.Services, rehearse.Service{Name: name, Protocol: protocol, Addr: backends[name], Inherits: s.cfg.Layer.Lends(name, p.Version)})
	}
	s.mu.Lock()
	j.Live = maps.Clone(s.record.Backends)
	s.mu.Unlock()
	return nil
}

// SnapshotEnvironment is that of a program that copies the state while the software runs.
func (s *Software) SnapshotEnvironment() []string {
	env := s.alone(s.Environment())
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, addr := range s.record.Backends {
		env = append(env, rehearse.ServiceVariable(name)+"="+addr)
	}
	return env
}

// alone has an environment name no agent, and proxies that nobody answers at.
func (s *Software) alone(env []string) (out []string) {
	proxies := s.cfg.Layer.EgressEnvironment()
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if name == "MOULT_SOCKET" {
			continue
		}
		if u, err := url.Parse(value); err == nil && proxies[name] == value && u.Host != "" {
			u.Host, u.User = nowhere, nil
			kv = name + "=" + u.String()
		}
		out = append(out, kv)
	}
	return out
}

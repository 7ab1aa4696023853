package agent

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/agent/process"
	"moult/simlayer/attach"
	"moult/store/bundle"
)

// plan is all that is needed to start one version of the software, and to take
// it over.
type plan struct {
	Version  bundle.Version `json:"version"`
	Dir      string         `json:"dir"`
	Command  []string       `json:"command"`
	Services []string       `json:"services"`
	// Protocols has those services that do not speak http.
	Protocols map[string]string `json:"protocols,omitempty"`
	Health    bundle.Health     `json:"health"`
	Artifact  bundle.Digest     `json:"artifact"` // zero for adopted software
}

// plan says how version v is started. It is called beside the loop.
func (s *software) plan(v bundle.Version) (p plan, err error) {
	a := s.a
	if !a.ask(func() {
		if m := a.docs.manifests[v]; m != nil {
			cu, known := m.Classes[a.cfg.Class]
			if known {
				p, err = s.planOf(v, cu)
				return
			}
		}
		if ad := a.cfg.Adopt; ad != nil && ad.Version == v {
			p = plan{Version: v, Dir: s.a.slots.Path(v), Command: ad.Command, Health: ad.Health, Services: slices.Sorted(maps.Keys(ad.Services)), Protocols: protocols(ad.Services)}
			return
		}
		err = fmt.Errorf("how to start version %d is not known here: neither a release nor an adopt block says it", v)
	}) {
		err = context.Canceled
	}
	return p, err
}

func (s *software) planOf(v bundle.Version, cu bundle.ClassUpgrade) (plan, error) {
	p := plan{Version: v, Command: cu.Command, Health: cu.Health, Services: slices.Sorted(maps.Keys(cu.Services)), Protocols: protocols(cu.Services)}
	art, ok := cu.Artifact(s.a.platform)
	if !ok {
		return p, fmt.Errorf("release %d has no software for %s", v, s.a.platform)
	}
	p.Artifact = art.Digest
	p.Dir, _ = s.a.depot.Dir(art.Digest) // startLocked makes sure of it
	return p, nil
}

func protocols(services map[string]bundle.Service) map[string]string {
	other := map[string]string{}
	for name, s := range services {
		if s.Protocol != bundle.ProtocolHTTP {
			other[name] = s.Protocol
		}
	}
	return other
}

// fits reports why callers could not be routed to version v of the software,
// while going back is still possible.
func (s *software) fits(v bundle.Version) error {
	p, err := s.plan(v)
	if err != nil {
		return nil // ensure says it, unless the software runs
	}
	var missing []string
	if !s.a.ask(func() {
		if s.a.machine.State().Running != v {
			missing = s.a.lacks(p.Services)
		}
	}) {
		return errStopped
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("agent.hcl of this node has service %s, and release %d has only %s: publish a release with all of them, or take the service block out of agent.hcl and restart the agent",
		strings.Join(missing, ", "), v, strings.Join(p.Services, ", "))
}

// spec fills in what the release leaves open.
func (s *software) spec(p plan, backends map[string]string) process.Spec {
	slot := s.a.slots.Path(p.Version)
	replace := []string{"${state}", slot}
	for name, addr := range backends {
		replace = append(replace, "${service."+name+"}", addr)
	}
	r := strings.NewReplacer(replace...)
	expand := func(argv []string, r *strings.Replacer) []string {
		out := make([]string, len(argv))
		for i, arg := range argv {
			out[i] = r.Replace(arg)
		}
		return out
	}
	health := p.Health
	health.Exec = expand(health.Exec, strings.NewReplacer(append(s.asides(p, backends), replace...)...))
	return process.Spec{
		Dir: p.Dir, Argv: expand(p.Command, r), Env: s.environment(), Marker: s.a.id.String(),
		LogPath: filepath.Join(s.a.cfg.Data, "log", "node.log"), Health: health, HealthAddr: backends[health.Service],
		NotifySocket: filepath.Join(s.a.cfg.Data, "notify.sock"), DialControl: attach.DialControl, Log: s.a.log,
	}
}

// asides say where a program that asks after the software's health finds services of
// UDP whose callers may have to wait just then. What cannot be had is left out: then
// the software is not ready, and the log says why.
func (s *software) asides(p plan, backends map[string]string) (replace []string) {
	for _, name := range slices.Sorted(maps.Keys(p.Protocols)) {
		if p.Protocols[name] != bundle.ProtocolUDP {
			continue
		}
		addr, err := s.a.layer.Aside(name, p.Version, backends[name])
		if err != nil {
			s.a.log.Error("the software's health cannot be asked after", "err", err)
		}
		if addr != "" {
			replace = append(replace, "${service."+name+"}", addr)
		}
	}
	return replace
}

// environment is the software's: the agent's own, less what is the agent's
// business, with the proxy that labels its calls, and what the operator set.
func (s *software) environment() []string {
	env := s.inherited()
	env["MOULT_SOCKET"] = filepath.Join(s.a.cfg.Data, control.SocketName) // for simlayer/dial
	if s.a.ways.egress.kind == EgressProxy {
		maps.Copy(env, s.a.layer.EgressEnvironment())
	}
	// The kernel steers to plain TCP sockets only, and Go programs listen with
	// multipath TCP unless they are told not to.
	env["GODEBUG"] = strings.TrimPrefix(env["GODEBUG"]+",multipathtcp=0", ",")
	return s.list(env)
}

// plain is the environment of programs that make no calls of their own to peers.
func (s *software) plain() []string { return s.list(s.inherited()) }

// inherited is the agent's own environment, less what is the agent's business.
func (s *software) inherited() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok && !strings.HasPrefix(k, "MOULT_") {
			env[k] = v
		}
	}
	return env
}

// list adds what the operator set.
func (s *software) list(env map[string]string) []string {
	maps.Copy(env, s.a.cfg.Env)
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

package software

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"moult/agent/process"
	"moult/simlayer/attach"
	"moult/store/bundle"
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
}

// spec fills in what the release leaves open.
func (s *Software) spec(p Plan, backends map[string]string) process.Spec {
	slot := s.cfg.State(p.Version)
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
		Dir: p.Dir, Argv: expand(p.Command, r), Env: s.Environment(), Marker: s.cfg.Node.String(),
		LogPath: filepath.Join(s.cfg.Data, "log", "node.log"), Health: health, HealthAddr: backends[health.Service],
		NotifySocket: filepath.Join(s.cfg.Data, "notify.sock"), DialControl: attach.DialControl, Log: s.cfg.Log,
	}
}

// asides say where a program that asks after the software's health finds services of
// UDP whose callers may have to wait just then. What cannot be had is left out: then
// the software is not ready, and the log says why.
func (s *Software) asides(p Plan, backends map[string]string) (replace []string) {
	for _, name := range slices.Sorted(maps.Keys(p.Protocols)) {
		if p.Protocols[name] != bundle.ProtocolUDP {
			continue
		}
		addr, err := s.cfg.Layer.Aside(name, p.Version, backends[name])
		if err != nil {
			s.cfg.Log.Error("the software's health cannot be asked after", "err", err)
		}
		if addr != "" {
			replace = append(replace, "${service."+name+"}", addr)
		}
	}
	return replace
}

package software

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"moult/agent/control"
)

// Environment is the software's: the agent's own, less what is the agent's
// business, with the proxy that labels its calls, and what the operator set.
func (s *Software) Environment() []string {
	env := inherited()
	env["MOULT_SOCKET"] = filepath.Join(s.cfg.Data, control.SocketName) // for simlayer/dial
	if s.cfg.Proxied {
		maps.Copy(env, s.cfg.Layer.EgressEnvironment())
	}
	// The kernel steers to plain TCP sockets only, and Go programs listen with
	// multipath TCP unless they are told not to.
	env["GODEBUG"] = strings.TrimPrefix(env["GODEBUG"]+",multipathtcp=0", ",")
	return list(env, s.cfg.Env)
}

// PlainEnvironment is that of programs that make no calls of their own to peers: the
// agent's, less what is the agent's business, and what the operator set.
func PlainEnvironment(operator map[string]string) []string { return list(inherited(), operator) }

// inherited is the agent's own environment, less what is the agent's business.
func inherited() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok && !strings.HasPrefix(k, "MOULT_") {
			env[k] = v
		}
	}
	return env
}

// list adds what the operator set.
func list(env, operator map[string]string) []string {
	maps.Copy(env, operator)
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

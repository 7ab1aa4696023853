package software

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"moult/agent/control"
)

// handedOn lists the variables of the agent's own environment that programs get. All
// others stay with the agent: they may be credentials, or tell it alone how systemd
// looks after it (NOTIFY_SOCKET, LISTEN_FDS, WATCHDOG_USEC). docs/operations.md tells
// operators, who set what else their software needs.
var handedOn = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL",
	"LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG",
}

// Environment is the software's: what is handed on of the agent's, the proxy that
// labels its calls, and what the operator set.
func (s *Software) Environment() []string {
	env := inherited(os.Environ())
	env["MOULT_SOCKET"] = filepath.Join(s.cfg.Data, control.SocketName) // for simlayer/dial
	if s.cfg.Proxied {
		maps.Copy(env, s.cfg.Layer.EgressEnvironment())
	}
	// The kernel steers to plain TCP sockets only, and Go programs listen with
	// multipath TCP unless they are told not to.
	env["GODEBUG"] = strings.TrimPrefix(env["GODEBUG"]+",multipathtcp=0", ",")
	return list(env, s.cfg.Env)
}

// PlainEnvironment is that of programs that make no calls of their own to peers: what
// is handed on of the agent's, and what the operator set.
func PlainEnvironment(operator map[string]string) []string {
	return list(inherited(os.Environ()), operator)
}

// inherited picks what is handed on.
func inherited(own []string) map[string]string {
	env := map[string]string{}
	for _, kv := range own {
		if k, v, ok := strings.Cut(kv, "="); ok && slices.ContainsFunc(handedOn, func(listed string) bool {
			prefix, any := strings.CutSuffix(listed, "*")
			return k == listed || any && strings.HasPrefix(k, prefix)
		}) {
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

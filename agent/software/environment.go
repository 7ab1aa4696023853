package software

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"moult/agent/account"
	"moult/agent/control"
	"moult/store/bundle/placeholder"
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

// Environment is that of transforms: what is handed on of the agent's, the proxy that
// labels the node's calls, and what the operator set, but for what only software that
// runs can be told.
func (s *Software) Environment() []string { return s.environment(nil, s.cfg.Account) }

// environment is the software's: that, and what the operator set, filled in.
func (s *Software) environment(at func(name string) (string, error), who *account.Account) []string {
	env := inherited(os.Environ())
	if who == nil && at != nil { // another user may not use it, nor what works in a sandbox
		env["MOULT_SOCKET"] = filepath.Join(s.cfg.Data, control.SocketName) // for simlayer/dial
	}
	who.Environment(env)
	if s.cfg.Proxied {
		maps.Copy(env, s.cfg.Layer.EgressEnvironment())
	}
	// The kernel steers to plain TCP sockets only, and Go programs listen with
	// multipath TCP unless they are told not to.
	env["GODEBUG"] = strings.TrimPrefix(env["GODEBUG"]+",multipathtcp=0", ",")
	return list(env, s.cfg.Env, at)
}

// PlainEnvironment is that of programs that make no calls of their own to peers: what
// is handed on of the agent's, and what the operator set, but for what only the
// software can be told.
func PlainEnvironment(who *account.Account, operator map[string]string) []string {
	env := inherited(os.Environ())
	who.Environment(env)
	return list(env, operator, nil)
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

// list adds what the operator set, filled in by at. What cannot be is left out.
func list(env, operator map[string]string, at func(name string) (string, error)) []string {
	if at == nil {
		at = func(string) (string, error) { return "", errors.New("no software runs") }
	}
	for k, text := range operator {
		if v, err := placeholder.Fill(text, at); err == nil {
			env[k] = v
		}
	}
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

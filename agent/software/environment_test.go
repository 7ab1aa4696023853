//go:build unix

package software

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"moult/agent/control"
)

// What only the agent should know does not reach what it runs; what every program needs
// does; and the operator has the last word.
func TestEnvironmentIsListed(t *testing.T) {
	kept := []string{"PATH=/bin", "HOME=/root", "LANG=C.UTF-8", "LC_ALL=C", "TZ=UTC", "TMPDIR=/tmp", "SSL_CERT_FILE=/ca.pem", "GODEBUG=x=1"}
	secret := []string{
		"NOTIFY_SOCKET=/run/systemd/notify", "LISTEN_FDS=1", "LISTEN_PID=7", "LISTEN_FDNAMES=api", "WATCHDOG_USEC=1", "WATCHDOG_PID=7",
		"CREDENTIALS_DIRECTORY=/run/credentials", "INVOCATION_ID=0", "JOURNAL_STREAM=1:2", "AWS_SECRET_ACCESS_KEY=s", "SSH_AUTH_SOCK=/s",
		"HTTP_PROXY=http://user:word@proxy", "LD_PRELOAD=/x.so", "GOMEMLIMIT=1", "MOULT_API_TOKEN=/t", "MOULT_TRUST=/trust", "PATHS=/x", "LC=1", "",
	}
	os.Clearenv()
	for _, kv := range slices.Concat(kept, secret) {
		if k, v, ok := strings.Cut(kv, "="); ok {
			t.Setenv(k, v)
		}
	}
	if got := PlainEnvironment(nil, nil); !slices.Equal(got, slices.Sorted(slices.Values(kept))) {
		t.Errorf("programs get %q, want %q", got, kept)
	}
	got := PlainEnvironment(nil, map[string]string{"LANG": "de_CH.UTF-8", "AWS_SECRET_ACCESS_KEY": "own"})
	for _, want := range []string{"LANG=de_CH.UTF-8", "AWS_SECRET_ACCESS_KEY=own"} {
		if !slices.Contains(got, want) {
			t.Errorf("programs get %q, without the operator's %s", got, want)
		}
	}
	n := newNode(t, sleeper)
	soft := New(n.cfg, Left{})
	at := func(string) (string, error) { return "", nil }
	socket := "MOULT_SOCKET=" + filepath.Join(n.cfg.Data, control.SocketName)
	if own := soft.environment(at, nil); !slices.Contains(own, socket) || slices.Contains(soft.Environment(), socket) {
		t.Errorf("the software alone is to be told of the agent's socket: %q", own)
	}
	for _, kv := range soft.Environment() {
		if slices.Contains(secret, kv) {
			t.Errorf("the software gets %s", kv)
		}
	}
}

// Operators find every name that is handed on in the docs, and no other.
func TestEnvironmentIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(page), "Of the agent's own environment programs get ")
	text, _, ok2 := strings.Cut(after, "; nothing else")
	if !ok || !ok2 {
		t.Fatal("docs/operations.md has no sentence of what programs get of the agent's environment")
	}
	var told []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		told = append(told, m[1])
	}
	if !slices.Equal(told, handedOn) {
		t.Errorf("docs/operations.md tells of %q, handed on are %q", told, handedOn)
	}
}

//go:build unix

package software

import (
	"net"
	"slices"
	"strings"
	"testing"

	"moult/store/bundle"
)

// What is filled in is what the release means: in the newer form by name, in the older
// one the state and addresses only.
func TestSpecFills(t *testing.T) {
	n := newNode(t, sleeper)
	n.cfg.Env = map[string]string{"LOG": "info", "PORT": "p${service.api.port}", "WEB": "${service.web}", "ODD": "$${state}"}
	s := n.agent()
	defer s.close()
	backends := map[string]string{"api": "127.0.0.1:7", "six": "[::1]:8"}
	argv := []string{"./kv", "${state}", "${service.api}", "${service.api.host}|${service.six.host}|${service.six.port}", "$${state}", "$HOME"}
	for _, c := range []struct {
		placeholders bool
		want         []string
	}{
		{true, []string{"./kv", n.cfg.State(1), "127.0.0.1:7", "127.0.0.1|::1|8", "${state}", "$HOME"}},
		{false, []string{"./kv", n.cfg.State(1), "127.0.0.1:7", "${service.api.host}|${service.six.host}|${service.six.port}", "$" + n.cfg.State(1), "$HOME"}},
	} {
		spec, err := s.spec(Plan{Version: 1, Command: argv, Placeholders: c.placeholders, Health: bundle.Health{Exec: argv}}, backends, nil)
		if err != nil || !slices.Equal(spec.Argv, c.want) || !slices.Equal(spec.Health.Exec, c.want) {
			t.Errorf("placeholders %v: %q and %q, %v, want %q", c.placeholders, spec.Argv, spec.Health.Exec, err, c.want)
		}
		for _, want := range []string{"LOG=info", "PORT=p7", "ODD=${state}"} {
			if !slices.Contains(spec.Env, want) {
				t.Errorf("the software's environment lacks %s: %q", want, spec.Env)
			}
		}
	}
	if _, err := s.spec(Plan{Version: 1, Command: []string{"${service.web}"}, Placeholders: true}, backends, nil); err == nil || !strings.Contains(err.Error(), "${service.web} has no value here") {
		t.Errorf("a service that is not there: %v", err)
	}
	// A transform is not told of services: none runs.
	for _, kv := range s.Environment() {
		if strings.HasPrefix(kv, "PORT=") || strings.HasPrefix(kv, "WEB=") {
			t.Errorf("a transform gets %s", kv)
		}
	}
}

// Services of one public address have one private port, which is free for both networks.
func TestOnePortForBothNetworks(t *testing.T) {
	n := newNode(t, sleeper)
	n.cfg.Services = map[string]string{"a": "10.0.0.1:7000", "b": "10.0.0.1:7000", "c": "10.0.0.1:7001"}
	s := n.agent()
	defer s.close()
	for range 20 {
		at, err := s.places(Plan{Services: []string{"a", "b", "c"}, Protocols: map[string]string{"b": bundle.ProtocolUDP}}, nil)
		if err != nil || at["a"] != at["b"] || at["a"] == at["c"] {
			t.Fatalf("%v, %v", at, err)
		}
		l, err := net.Listen("tcp", at["a"])
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", at["b"])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = l.Close(), p.Close()
	}
}

// What software has written is bounded, and steers no terminal.
func TestHarmless(t *testing.T) {
	got := harmless("one\r\n\x1b[31mred\ttwo\xff\n" + strings.Repeat("x", 2*maxLine) + "\n")
	want := []string{"one", "\uFFFD[31mred two\uFFFD", strings.Repeat("x", maxLine) + "…"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

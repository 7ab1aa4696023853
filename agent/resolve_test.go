package agent

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/simlayer/dial"
	"moult/store/bundle"
)

// The software finds its peers by the agent's socket, as the version that it is.
func TestResolve(t *testing.T) {
	b := newBench(t, benchConfig(t), 0)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client := control.NewClient(b.cfg.Data)
	defer client.Close()

	const public = "127.0.0.1:7000"
	b.do(func() {
		b.peer(func(r *view.Record) {
			r.Services = map[string]view.ServiceAddr{"api": {Public: public, Native: 2, Attach: "relay", Egress: "proxy", Protocol: "http",
				Versions: map[bundle.Version]string{2: ln.Addr().String()}}}
		})
		b.takeDirectory(b.node.Directory())
	})
	if r, err := client.Resolve(t.Context(), public); err == nil {
		t.Errorf("resolved to %+v before the version is known", r)
	}
	b.do(func() { b.in(upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true}) })
	_, err = client.Resolve(t.Context(), public)
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Kind != control.KindRefused {
		t.Errorf("as version 1: %v", err)
	}
	b.do(func() { b.step(node.SoftwareStarts{Version: 2}); b.takeRoute(b.node.Route()) }) // its new software starts
	if r, err := client.Resolve(t.Context(), public); err != nil || r != (control.Resolved{Address: ln.Addr().String(), Peer: true, Version: 2}) {
		t.Errorf("as version 2: %+v, %v", r, err)
	}
	if r, err := client.Resolve(t.Context(), "db.example:5432"); err != nil || r != (control.Resolved{Address: "db.example:5432", Version: 2}) {
		t.Errorf("no peer: %+v, %v", r, err)
	}
	for _, bad := range []string{"", "peer", ":7000", "peer:"} {
		_, err := client.Resolve(t.Context(), bad)
		if e, ok := errors.AsType[*control.Error](err); !ok || e.Kind != control.KindMisuse {
			t.Errorf("resolve %q: %v", bad, err)
		}
	}

	d := dial.Dialer{Socket: filepath.Join(b.cfg.Data, control.SocketName)}
	conn, err := d.DialContext(t.Context(), "tcp", public)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.RemoteAddr().String(); got != ln.Addr().String() {
		t.Errorf("dialled %s, want %s", got, ln.Addr())
	}
	conn.Close()
	// What works in a sandbox may not ask there, and is not told where.
	for _, kv := range b.soft.Environment() {
		if strings.HasPrefix(kv, dial.SocketVariable+"=") {
			t.Errorf("a transform is told %s", kv)
		}
	}
}

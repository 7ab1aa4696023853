package agent

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"moult/agent/home"
	"moult/agent/membership"
)

// Secrets that others may read are used, with an alarm that has the command that mends it
// and goes when that is done; those of a group of the agent's are how it is given them.
func TestSecretsOthersMayRead(t *testing.T) {
	cfg := benchConfig(t)
	dir := t.TempDir()
	cfg.JoinToken, cfg.GossipKey = filepath.Join(dir, "join.token"), filepath.Join(dir, "gossip.key")
	secret, err := membership.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{cfg.JoinToken: secret.String(), cfg.GossipKey: base64.StdEncoding.EncodeToString(make([]byte, 32))} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := newBench(t, cfg, 1)
	files := home.Secrets(cfg)
	for i, read := range []func() error{
		func() error { _, err := home.ReadIdentity(cfg.Data); return err },
		func() error { _, err := b.GossipKeys(); return err },
		func() error { _, err := b.Enrol(); return err },
	} {
		for _, c := range []struct {
			mode  os.FileMode
			alarm bool
		}{{0o600, false}, {0o640, false}, {0o444, true}, {0o400, false}, {0o606, true}, {0o660, false}} {
			if err := os.Chmod(files[i], c.mode); err != nil {
				t.Fatal(err)
			}
			if err := read(); err != nil {
				t.Errorf("%s of mode %v: %v", files[i], c.mode, err)
			}
			b.do(func() { b.watchSecrets() })
			var n int
			b.do(func() {
				n = b.alarmed("is open to all users of this machine (mode 0" + strconv.FormatUint(uint64(c.mode), 8) + "): `chmod 600 " + files[i] + "`")
			})
			if (n == 1) != c.alarm {
				t.Errorf("%s of mode %v: %d alarms", files[i], c.mode, n)
			}
		}
	}
}

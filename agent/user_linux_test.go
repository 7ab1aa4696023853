package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"moult/agent/account"
	"moult/agent/config"
	"moult/agent/home"
	"moult/store/bundle/trust"
)

// An agent that cannot keep the node's programs from itself does not start, and says why.
func TestUserCannotBeObeyed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start programs as another user")
	}
	dir := t.TempDir()
	if err := trust.Init(filepath.Join(dir, "trust"), trust.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ user, group, want string }{
		{"no-such-user", "", `user = "no-such-user": this machine has no such user`},
		{"nobody", "no-such-group", `group = "no-such-group"`},
		{"root", "", "root is who the node's programs are to be kept from"},
		{"65534", "65534", "let that user through"}, // folders of tests are the agent's alone
	} {
		cfg := benchConfig(t)
		cfg.Root, cfg.Data, cfg.User, cfg.Group = filepath.Join(dir, "trust", "root.json"), filepath.Join(dir, "data"), c.user, c.group
		err := openAndClose(cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("user %q, group %q: %v, want %q", c.user, c.group, err, c.want)
		}
	}
}

// Whatever the umask is, the user's programs come to the software and to their state,
// also in a folder that an agent has made before.
func TestUserReachesSoftware(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start programs as another user")
	}
	cfg := benchConfig(t)
	cfg.User, cfg.Group = "65534", "65534"
	above := filepath.Dir(cfg.Data)
	if err := os.Chmod(above, 0o711); err != nil {
		t.Fatal(err)
	}
	who, err := account.Resolve(cfg.User, cfg.Group, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := who.Reaches(above); err != nil {
		t.Skip("the folder for tests is closed to others: ", err)
	}
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for range 2 {
		err := openAndClose(cfg)
		if err != nil {
			t.Fatal(err)
		}
		artifacts := filepath.Join(cfg.Data, "artifacts")
		if err := who.Reaches(artifacts); err != nil {
			t.Error(err)
		}
		if err := os.Chmod(artifacts, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// Nor is it to write what the agent is told.
	cfg.File = filepath.Join(t.TempDir(), "agent.hcl")
	if err := errors.Join(os.WriteFile(cfg.File, nil, 0o600), who.Give(cfg.File)); err != nil {
		t.Fatal(err)
	}
	err = openAndClose(cfg)
	if err == nil || !strings.Contains(err.Error(), cfg.File+" is that user's") {
		t.Errorf("the configuration is the user's: %v", err)
	}
	// Nor what the agent runs as itself.
	cfg.OnEvent, cfg.File = []string{cfg.File}, ""
	if err := openAndClose(cfg); err == nil || !strings.Contains(err.Error(), cfg.OnEvent[0]+" is that user's") {
		t.Errorf("the command of on_event is the user's: %v", err)
	}
	cfg.OnEvent = []string{"/bin/sh", cfg.OnEvent[0], "/dev/null"}
	if err := openAndClose(cfg); err == nil || !strings.Contains(err.Error(), cfg.OnEvent[1]+" is that user's") {
		t.Errorf("a script of on_event is the user's: %v", err)
	}
	cfg.OnEvent = []string{"/bin/sh", "/dev/null", "/tmp", "/not/there"}
	if err := openAndClose(cfg); err != nil {
		t.Errorf("a device, and what is not there: %v", err)
	}
	cfg.OnEvent = nil
	// It reaches the node's keys as little as before, whatever their mode has become.
	if err := os.Chmod(filepath.Join(cfg.Data, home.IdentityFile), 0o644); err != nil {
		t.Fatal(err)
	}
	err = openAndClose(cfg)
	if err == nil || !strings.Contains(err.Error(), "that user may read the secret") {
		t.Errorf("the identity is open to the user: %v", err)
	}
}

// openAndClose opens a node's data folder, and says why that fails.
func openAndClose(cfg config.Config) error {
	h, err := home.Open(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return h.Close()
}

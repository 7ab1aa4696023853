package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		opened := &closers{}
		_, err := openFolder(cfg, slog.New(slog.DiscardHandler), opened)
		if closed := opened.close(); closed != nil {
			t.Error(closed)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("user %q, group %q: %v, want %q", c.user, c.group, err, c.want)
		}
	}
}

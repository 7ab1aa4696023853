package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"moult/agent/control"
	"moult/agent/fdstore"
	"moult/agent/membership"
	"moult/agent/selfupdate"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// On a disk that is mounted read-only an agent comes up, looks after the software that runs
// on, serves its callers, begins nothing, and says what is wrong. So it does where the disk
// becomes read-only under it.
func TestReadOnlyDisk(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := adopting(t, benchConfig(t), 1, "")
	cfg.Adopt.Command = []string{exe, echoCommand, "${service.api}"}
	cfg.Adopt.Services = map[string]bundle.Service{"api": {Protocol: bundle.ProtocolTCP}}
	cfg.Bind = fmt.Sprintf("127.0.0.1:%d", freeRun(t, servePorts+2)+servePorts+1)
	endSoftware(t, cfg.Data)
	api := control.NewClient(cfg.Data)
	defer api.Close()
	log := slog.New(slog.DiscardHandler)
	run := func() (end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := Run(ctx, cfg, selfupdate.Open(cfg.Data, log), fdstore.Open(log), log); err != nil {
				t.Error(err)
			}
		}()
		return func() {
			cancel()
			<-ended
		}
	}
	serves := func(when string) (pid int) {
		kit.Until(t, "the software to serve "+when, func() bool {
			info, err := api.Info(t.Context())
			pid = info.NodePID
			return err == nil && pid != 0
		})
		kit.Until(t, "an answer "+when, func() bool {
			reply, err := askLine(cfg.Services["api"].Address, when)
			return err == nil && reply == when
		})
		return pid
	}
	said := func() bool {
		s, err := api.Status(t.Context(), false)
		return err == nil && slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.Contains(text, "is mounted read-only") })
	}
	end := run()
	before := serves("at first")
	if said() {
		t.Fatal("the disk takes writes, and an alarm says that it does not")
	}

	if err := unix.Mount(cfg.Data, cfg.Data, "", unix.MS_BIND, ""); err != nil {
		end()
		t.Skipf("nothing can be mounted read-only: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(cfg.Data, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", cfg.Data, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the running agent to say that the disk takes no writes", said)
	if after := serves("while it runs"); after != before {
		t.Errorf("process %d serves, and was %d", after, before)
	}
	end()

	secret, err := membership.NewSecret() // what it enrols cannot be stored
	if err != nil {
		t.Fatal(err)
	}
	cfg.JoinToken = filepath.Join(t.TempDir(), "join.token")
	if err := os.WriteFile(cfg.JoinToken, []byte(secret.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	end = run()
	defer end()
	if after := serves("after a start"); after != before {
		t.Errorf("after a start of the agent process %d serves, and was %d", after, before)
	}
	kit.Until(t, "the agent to say that the disk takes no writes", said)
}

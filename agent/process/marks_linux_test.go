package process

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Another user who starts processes with the node's mark does not keep the node
// down, and is not ended either.
func TestMarksOfOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start another user's process")
	}
	t.Parallel()
	spec := newSpec(t, "hang")
	spec.Marker = "node-of-" + filepath.Base(spec.Dir) + spec.HealthAddr
	const nobody = 65534
	theirs := exec.Command("/bin/sleep", "1000")
	theirs.Env = []string{markerEntry(spec.Marker)}
	theirs.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := theirs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = theirs.Process.Kill()
		_ = theirs.Wait()
	})
	if found, err := FindOrphans(spec.Marker); err != nil || len(found) != 0 {
		t.Errorf("orphans %v, %v: another user's process counts as the node's software", found, err)
	}
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, p)
	if stat, err := readStat(theirs.Process.Pid); err != nil || stat.ended() {
		t.Errorf("another user's process was ended: %c, %v", stat.state, err)
	}
	if found, err := FindOrphans(spec.Marker); err != nil || len(found) != 1 || found[0] != p.Handle() {
		t.Errorf("orphans %v, %v, want the software, %v", found, err, p.Handle())
	}
	if _, err := p.Stop(context.Background(), 0); err != nil {
		t.Error(err)
	}
}

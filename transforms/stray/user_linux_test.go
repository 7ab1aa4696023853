package stray

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Anybody may start programs with any environment. Those of another user are neither
// found nor ended, also where they run a program as this one.
func TestOtherUsersDoNotCount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start another user's process")
	}
	entry := fmt.Sprintf("MOULT_STRAY_USER=%d", os.Getpid())
	const nobody = 65534
	theirs := exec.Command("cat")
	theirs.Env = []string{entry, "PATH=" + os.Getenv("PATH")}
	theirs.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	in, err := theirs.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := theirs.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = theirs.Process.Kill()
		_ = theirs.Wait()
	})
	// Start returns before the kernel has put the environment in its place.
	var up [1]byte
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(up[:]); err != nil {
		t.Fatal(err)
	}
	if !Carries(theirs.Process.Pid, entry) {
		t.Fatal("the other user's process does not have the entry, so that this shows nothing")
	}
	if Has(theirs.Process.Pid, entry) {
		t.Error("another user's process counts")
	}
	if err := End(entry); err != nil {
		t.Error(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, theirs.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err != nil || info.Signo != 0 {
		t.Errorf("another user's process was ended: %v", err)
	}
	if !Has(theirs.Process.Pid, entry, nobody) || Has(theirs.Process.Pid, entry, nobody-1) {
		t.Error("a user's process counts by another's number, or not by its own")
	}
	if err := End(entry, os.Getuid(), nobody); err != nil {
		t.Error(err)
	}
	if err := unix.Waitid(unix.P_PID, theirs.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err != nil || info.Signo == 0 {
		t.Errorf("the process of a user that was named goes on: %v", err)
	}
	for status, own := range map[string]bool{
		"Name:\tx\nUid:\t0\t0\t0\t0\n":         true,
		"Name:\tx\nUid:\t65534\t0\t0\t0\n":     false, // it runs a set-user-ID program of root's
		"Name:\tx\nUid:\t0\t65534\t0\t65534\n": true,  // it has put its rights aside
		"Name:\tUid:\t0\n":                     false,
		"":                                     false,
	} {
		if got := isOwn([]byte(status), 0); got != own {
			t.Errorf("%q counts as root's own: %t, want %t", status, got, own)
		}
	}
}

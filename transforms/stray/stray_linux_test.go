package stray

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// End ends what has the entry, whole, whatever group it is in, and nothing else.
func TestEnd(t *testing.T) {
	entry := fmt.Sprintf("MOULT_STRAY_TEST=%d", os.Getpid())
	start := func(entry string) *exec.Cmd {
		cmd := exec.Command("sleep", "1000")
		cmd.Env = append(os.Environ(), entry)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd
	}
	one, two, other := start(entry), start(entry), start(entry+"0")
	for _, cmd := range []*exec.Cmd{one, two} {
		if !Has(cmd.Process.Pid, entry) {
			t.Errorf("process %d was started with %s, and is not found", cmd.Process.Pid, entry)
		}
	}
	if err := End(entry); err != nil {
		t.Error(err)
	}
	for _, cmd := range []*exec.Cmd{one, two} {
		var info unix.Siginfo
		// It is this process's child: ended, it waits to be reaped.
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err != nil || info.Signo == 0 {
			t.Errorf("process %d goes on: %v", cmd.Process.Pid, err)
		}
	}
	if !Has(other.Process.Pid, entry+"0") {
		t.Error("a process with another entry has ended, too")
	}
	if left, err := Find(entry); len(left) > 0 || err != nil {
		t.Errorf("%d are left, %v", len(left), err)
	}
}

// A process that executes one program after the other has the entry all the while,
// though Linux has no environment to show for it in between.
func TestExecuting(t *testing.T) {
	entry := fmt.Sprintf("MOULT_STRAY_EXEC=%d", os.Getpid())
	cmd := exec.Command("/bin/sh", "-c", `exec /bin/sh -c "$AGAIN"`)
	cmd.Env = []string{entry, `AGAIN=exec /bin/sh -c "$AGAIN"`}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 2_000 {
		if !Has(cmd.Process.Pid, entry) {
			t.Fatalf("process %d has %s, and is not found", cmd.Process.Pid, entry)
		}
	}
}

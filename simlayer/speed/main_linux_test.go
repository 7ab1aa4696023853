package speed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"moult/simlayer/host"
)

// The test binary plays all parts: with roleVar one of the servers or a client;
// with boxVar the tests themselves, as root in namespaces of their own.
const (
	roleVar = "MOULT_SPEED_ROLE"
	boxVar  = "MOULT_SPEED_BOX"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == host.CommandName {
		os.Exit(host.Main(os.Args[2:], os.Stderr))
	}
	if text := os.Getenv(roleVar); text != "" {
		os.Exit(play(text))
	}
	switch {
	case os.Getenv(boxVar) == "on":
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "furnish the namespaces:", err)
			os.Exit(1)
		}
	case os.Getuid() == 0 && os.Getenv(boxVar) == "":
		os.Exit(box())
	}
	os.Exit(m.Run())
}

// box runs this binary in namespaces of its own: whatever it starts or leaves in
// the kernel ends with it.
func box() int {
	runtime.LockOSThread() // for Pdeathsig
	start := func(on string, flags uintptr) (*exec.Cmd, error) {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), boxVar+"="+on)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		return cmd, cmd.Start()
	}
	cmd, err := start("on", syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID)
	if errors.Is(err, unix.EPERM) {
		cmd, err = start("off", 0)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// furnish makes the new namespaces usable: loopback up, mounts private, a /proc of
// the processes in here.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

package child

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// In this variable TestMain finds what the process is to be.
const roleName = "MOULT_CHILD_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleName) {
	case "parent":
		c, err := Start(role("becomes"), fmt.Sprintf("MOULT_CHILD_TEST=%d", os.Getpid()), slog.New(slog.DiscardHandler))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(c.PID())
		select {}
	case "spins":
		for n := 0; ; n++ {
		}
	case "becomes":
		elsewhere(func() { fmt.Fprintln(os.Stderr, Become("/bin/sleep", []string{"sleep", "1000"}, os.Environ())) })
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func role(name string) *exec.Cmd {
	cmd := exec.Command(ThisProgram())
	cmd.Env = append(os.Environ(), roleName+"="+name)
	return cmd
}

// elsewhere runs f on another thread than the process's first.
func elsewhere(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			elsewhere(f)
			return
		}
		f()
	}()
	<-done
}

// A program ends with the agent, whichever thread became it.
func TestBecomeEndsWithParent(t *testing.T) {
	parent := role("parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscan(bufio.NewReader(out), &pid)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for { // it becomes sleep when it is scheduled
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		if string(name) == "sleep\n" {
			break
		}
		runtime.Gosched()
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(ended, int(time.Minute.Milliseconds()))
		if n == 0 {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			t.Fatal("the program outlives its agent")
		}
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
}

// A process that spins works, and one that was stopped does not.
func TestWorks(t *testing.T) {
	c, err := Start(role("spins"), fmt.Sprintf("MOULT_CHILD_TEST=%d", os.Getpid()), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for !c.Works() { // it spins once it has begun
		runtime.Gosched()
	}
	c.mu.Lock()
	c.signal(unix.SIGSTOP)
	c.mu.Unlock()
	for c.Works() { // each of its threads stops when it is scheduled
		runtime.Gosched()
	}
	c.Kill(errors.New("the test is over"))
	_ = c.Err() // it was killed
	if c.Works() {
		t.Error("a process that has ended works")
	}
}

package transforms

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moult/testdata/kit"
	"moult/transforms/stray"
)

// A program that ends well but leaves a child behind: the child is stopped
// before the new slot is looked at.
func TestChildLeftBehind(t *testing.T) {
	j := newJob(t, "leave-child")
	if _, err := (Runner{}).Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	left, err := stray.Find("MOULT_NEW=" + j.New)
	if len(left) != 0 || err != nil {
		t.Errorf("%d processes left, %v", len(left), err)
	}
	for _, fd := range left {
		unix.Close(fd)
	}
}

// The agent's own user is limited without a shell, which an image may not have.
func TestMemoryLimit(t *testing.T) {
	had := shell
	shell = "/nowhere/sh"
	t.Cleanup(func() { shell = had })
	j := newJob(t, "memory")
	j.Spec.MemoryMax = 512 << 20
	_, err := Runner{}.Run(context.Background(), j)
	var failed *Failed
	if !errors.As(err, &failed) || !strings.Contains(failed.Reason, "memory_max") {
		t.Errorf("error: %v", err)
	}
}

// The agent dies while a transform runs: the program dies with it, and what
// had left its group is stopped when the slots are opened again.
func TestAgentDies(t *testing.T) {
	dir, _ := startState(t)
	tmp, err := openSlots(t, dir).Prepare(2)
	if err != nil {
		t.Fatal(err)
	}
	agent := kit.Child("TEST_PROGRAM=agent", "TEST_PATH="+dir)
	line, out, err := kit.Begin(agent)
	if err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(line, "family") && out.Scan() {
		line = out.Text()
	}
	pids := pidsOf(t, line)
	main, err := unix.PidfdOpen(pids[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(main)
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	agent.Wait()
	stray.Await(main, 10*time.Second)
	if kit.Alive(pids[0]) {
		t.Error("the program has outlived the agent")
	}
	s := openSlots(t, dir)
	for _, pid := range pids {
		if kit.Alive(pid) {
			t.Errorf("process %d still runs", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if _, err := os.Stat(tmp); err == nil {
		t.Error("the unfinished slot is still there")
	}
	if v, _, err := s.Current(); v != 1 || err != nil {
		t.Errorf("live slot %d, %v", v, err)
	}
}

//go:build unix

package transforms

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/agent/account/bounds"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// quickExit is for children built with -race, which else take a second to end.
const quickExit = "GORACE=atexit_sleep_ms=0"

// The test binary is also the program that the tests run: TEST_PROGRAM says
// which part it plays.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == bounds.CommandName {
		os.Exit(bounds.Main(os.Args[2:], os.Stderr))
	}
	if part := os.Getenv("TEST_PROGRAM"); part != "" {
		os.Exit(playPart(part))
	}
	os.Exit(m.Run())
}

func playPart(part string) int {
	switch part {
	case "upper":
		return upperCase()
	case "later":
		fmt.Println("compaction is running")
		return 21
	case "fail":
		fmt.Fprintln(os.Stderr, "record 17 has no name")
		return 3
	case "chatty":
		for i := range 100_000 {
			fmt.Println("line", i)
		}
		fmt.Println("the end")
		return 1
	case "hang":
		fmt.Println("hanging")
		return hang()
	case "family":
		return family()
	case "leave-child":
		start("hang", nil)
		return 0
	case "limited-user":
		return limitedUser()
	case "memory":
		return eatMemory()
	case "disk":
		return eatDisk()
	case "objects":
		return carryState()
	case "back":
		return takeBack()
	case "forward":
		return goForward()
	case "write-future":
		return writeTo(os.Getenv("MOULT_FUTURE_STATE"))
	case "past-disk":
		os.Setenv("MOULT_NEW", os.Getenv("MOULT_PAST_STATE"))
		return eatDisk()
	case "past-link-out":
		os.Symlink("/etc/passwd", filepath.Join(os.Getenv("MOULT_PAST_STATE"), "link"))
		return 0
	case "write-old":
		return writeTo(os.Getenv("MOULT_OLD"))
	case "write-path":
		return writeTo(os.Getenv("TEST_PATH"))
	case "link-out":
		os.Symlink("/etc/passwd", filepath.Join(os.Getenv("MOULT_NEW"), "link"))
		return 0
	case "environment":
		fmt.Println(strings.Join(os.Environ(), "\n"))
		wd, _ := os.Getwd()
		fmt.Println("wd=" + wd)
		return 1
	case "agent":
		return runAgent()
	case "slots":
		return runSlots()
	}
	fmt.Fprintln(os.Stderr, "unknown part", part)
	return 99
}

// upperCase is a transform: every file's content in capitals.
func upperCase() int {
	old, new := os.Getenv("MOULT_OLD"), os.Getenv("MOULT_NEW")
	entries, err := os.ReadDir(old)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(old, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(new, e.Name()), []byte(strings.ToUpper(string(data))), 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

// carryState is a transform that also makes the past object's state, from the
// future object's.
func carryState() int {
	data, err := os.ReadFile(filepath.Join(os.Getenv("MOULT_FUTURE_STATE"), "a"))
	if err == nil {
		err = os.WriteFile(filepath.Join(os.Getenv("MOULT_PAST_STATE"), "seen"), data, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return upperCase()
}

// start runs another part as a child and returns when it has begun.
func start(part string, attr *syscall.SysProcAttr) int {
	cmd := kit.Child("TEST_PROGRAM=" + part)
	cmd.SysProcAttr = attr
	if _, _, err := kit.Begin(cmd); err != nil {
		panic(err)
	}
	return cmd.Process.Pid
}

// family has a child in its process group and one that left it, and hangs.
func family() int {
	child := start("hang", nil)
	stray := start("hang", &syscall.SysProcAttr{Setsid: true})
	fmt.Printf("family %d %d %d\n", os.Getpid(), child, stray)
	return hang()
}

func eatMemory() int {
	var hold [][]byte
	for range 4096 {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		hold = append(hold, b)
	}
	return len(hold) & 1 // 0: it got 4 GiB
}

func eatDisk() int {
	f, err := os.Create(filepath.Join(os.Getenv("MOULT_NEW"), "big"))
	if err != nil {
		return 1
	}
	b := make([]byte, 64<<10)
	for range 1 << 14 { // 1 GiB
		if _, err := f.Write(b); err != nil {
			return 1
		}
	}
	return 0
}

func writeTo(dir string) int {
	f, err := os.OpenFile(filepath.Join(dir, "a"), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		fmt.Println(err)
		return 5
	}
	defer f.Close()
	if _, err := f.WriteString("spoilt"); err != nil {
		fmt.Println(err)
		return 5
	}
	return 0
}

// runAgent stands for an agent that runs a transform until it is killed.
func runAgent() int {
	_, err := Runner{Output: os.Stdout}.Run(context.Background(), Job{
		Spec: bundle.Transform{Exec: []string{os.Args[0]}},
		Dir:  os.Getenv("TEST_PATH"),
		Old:  filepath.Join(os.Getenv("TEST_PATH"), "1"), New: filepath.Join(os.Getenv("TEST_PATH"), ".new-2"),
		From: 1, To: 2,
		Env: []string{"TEST_PROGRAM=family"},
	})
	fmt.Println(err)
	return 1
}

// runSlots does an upgrade's work on slots and is killed at step TEST_STEP.
func runSlots() int {
	at, err := strconv.Atoi(os.Getenv("TEST_STEP"))
	if err != nil {
		return 98
	}
	count := 0
	err = upgradeSlots(os.Getenv("TEST_PATH"), func(string) error {
		if count++; count == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			hang()
		}
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// hang waits for a signal that kills. An empty select would not do: without cgo
// the runtime takes it for a deadlock.
func hang() int {
	for {
		time.Sleep(time.Hour)
	}
}

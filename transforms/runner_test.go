//go:build unix

package transforms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/testdata/kit"
)

// newJob is a transform by a part of the test binary (see TestMain), or by
// copy where part is empty.
func newJob(t *testing.T, part string) Job {
	t.Helper()
	dir := t.TempDir()
	j := Job{Dir: t.TempDir(), Old: filepath.Join(dir, "1"), New: filepath.Join(dir, ".new-2"), From: 1, To: 2}
	if part != "" {
		j.Spec.Exec = []string{os.Args[0]}
		j.Env = []string{"TEST_PROGRAM=" + part, quickExit}
	}
	if err := os.Mkdir(j.New, 0o700); err != nil {
		t.Fatal(err)
	}
	writeTree(t, j.Old, map[string]string{"a": "alpha", "b": "beta"})
	return j
}

// ways lists the protections that this machine allows.
func ways(t *testing.T) map[string]Protection {
	t.Helper()
	m := map[string]Protection{"copy": ProtectCopy, "auto": ProtectAuto}
	if mayMount() {
		m["mount"] = ProtectMount
	}
	return m
}

func TestProgram(t *testing.T) {
	for name, way := range ways(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t, "upper")
			before := digest(t, j.Old)
			res, err := Runner{Protect: way}.Run(context.Background(), j)
			if err != nil {
				t.Fatal(err)
			}
			if res != (Result{Objects: 2, Bytes: 9}) {
				t.Errorf("result %+v", res)
			}
			if got, _ := os.ReadFile(filepath.Join(j.New, "b")); string(got) != "BETA" {
				t.Errorf("b is %q", got)
			}
			if digest(t, j.Old) != before {
				t.Error("the old slot has changed")
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(j.New), ".old-*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestRelativeProgramAndEnvironment(t *testing.T) {
	j := newJob(t, "environment")
	if err := os.Symlink(os.Args[0], filepath.Join(j.Dir, "kv")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SECRET_OF_THE_AGENT", "x")
	j.Spec.Exec = []string{"./kv", "migrate"}
	var failed *Failed
	if _, err := (Runner{}).Run(context.Background(), j); !errors.As(err, &failed) {
		t.Fatal(err)
	}
	for _, want := range []string{"MOULT_OLD=", "MOULT_NEW=" + j.New, "MOULT_FROM=1", "MOULT_TO=2", "wd=" + j.Dir} {
		if !strings.Contains(failed.Output, want) {
			t.Errorf("no %q in %q", want, failed.Output)
		}
	}
	if strings.Contains(failed.Output, "SECRET") {
		t.Error("the agent's environment was inherited")
	}
}

func TestLater(t *testing.T) {
	_, err := Runner{}.Run(context.Background(), newJob(t, "later"))
	if !errors.Is(err, ErrLater) || !strings.Contains(err.Error(), "compaction is running") {
		t.Errorf("error: %v", err)
	}
}

func TestFailure(t *testing.T) {
	_, err := Runner{}.Run(context.Background(), newJob(t, "fail"))
	var failed *Failed
	if !errors.As(err, &failed) || failed.Exit != 3 || failed.Output != "record 17 has no name" {
		t.Fatalf("error: %#v", err)
	}
	if got := err.Error(); !strings.HasPrefix(got, "transform 1 -> 2 (") || !strings.HasSuffix(got, "exit status 3; its last output: record 17 has no name") {
		t.Errorf("error: %s", got)
	}
}

func TestCannotStart(t *testing.T) {
	for _, argv0 := range []string{"./missing", "no-such-program-anywhere", "/"} {
		j := newJob(t, "upper")
		j.Spec.Exec = []string{argv0}
		_, err := Runner{}.Run(context.Background(), j)
		if err == nil || !strings.Contains(err.Error(), argv0) || !strings.Contains(err.Error(), "transform.exec") {
			t.Errorf("%s: %v", argv0, err)
		}
	}
}

func TestOutputIsBounded(t *testing.T) {
	var log bytes.Buffer
	var all countWriter
	j := newJob(t, "chatty")
	_, err := Runner{Log: slog.New(slog.NewTextHandler(&log, nil)), Output: &all}.Run(context.Background(), j)
	var failed *Failed
	if !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if len(failed.Output) > maxTail || !strings.HasSuffix(failed.Output, "the end") {
		t.Errorf("kept %d bytes, ending in %q", len(failed.Output), lastLines(failed.Output, 20))
	}
	if len(err.Error()) > 4*maxErrorTail {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
	if all < 1<<20 {
		t.Errorf("Output got %d bytes", all)
	}
	if n := strings.Count(log.String(), "transform says"); n != maxLogLines+1 {
		t.Errorf("%d lines were logged", n)
	}
}

type countWriter int

func (w *countWriter) Write(p []byte) (int, error) { *w += countWriter(len(p)); return len(p), nil }

func TestTimeout(t *testing.T) {
	j := newJob(t, "hang")
	j.Spec.Timeout = bundle.Duration(50 * time.Millisecond)
	_, err := Runner{}.Run(context.Background(), j)
	var failed *Failed
	if !errors.As(err, &failed) || !strings.Contains(failed.Reason, "not done after 50ms (transform.timeout): killed") {
		t.Errorf("error: %v", err)
	}
}

// trigger calls do once, with what was written, when that holds the mark.
type trigger struct {
	mark string
	do   func(all string)
	all  strings.Builder
	once sync.Once
}

func (w *trigger) Write(p []byte) (int, error) {
	w.all.Write(p)
	if s := w.all.String(); strings.Contains(s, w.mark) && strings.HasSuffix(s, "\n") {
		w.once.Do(func() { w.do(s) })
	}
	return len(p), nil
}

func pidsOf(t *testing.T, s string) []int {
	t.Helper()
	var a, b, c int
	if _, err := fmt.Sscanf(s[strings.Index(s, "family"):], "family %d %d %d", &a, &b, &c); err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return []int{a, b, c}
}

func TestKilledWithItsFamily(t *testing.T) {
	j := newJob(t, "family")
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("the agent stops")
	var pids []int
	out := &trigger{mark: "family", do: func(s string) {
		pids = pidsOf(t, s)
		for _, pid := range pids {
			if !kit.Alive(pid) {
				t.Errorf("process %d is not alive to begin with", pid)
			}
		}
		cancel(stop)
	}}
	if _, err := (Runner{Output: out}).Run(ctx, j); !errors.Is(err, stop) {
		t.Errorf("error: %v", err)
	}
	for i, pid := range pids {
		if i == 2 && runtime.GOOS != "linux" {
			continue // who leaves the group escapes there
		}
		if kit.Alive(pid) {
			t.Errorf("process %d of %d survived", i, pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func TestDiskLimit(t *testing.T) {
	j := newJob(t, "disk")
	j.Spec.DiskMax = 1 << 20
	_, err := Runner{}.Run(context.Background(), j)
	if err == nil || !strings.Contains(err.Error(), "transform.disk_max") {
		t.Errorf("error: %v", err)
	}
}

// What the release is at fault for is told from what the machine lacks.
func TestOwnFault(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Job)
		own    bool
	}{
		{"a program that fails", func(j *Job) { j.Spec.Exec = []string{"/bin/sh", "-c", "exit 3"} }, true},
		{"a program that is missing", func(j *Job) { j.Spec.Exec = []string{"/no/such/program"} }, true},
		{"a program that is missing, with its memory bounded", func(j *Job) { j.Spec.Exec, j.Spec.MemoryMax = []string{"/no/such/program"}, 1<<30 }, true},
		{"a device in what it made", func(j *Job) { j.Spec.Exec = []string{"/bin/sh", "-c", "mkfifo $MOULT_NEW/pipe"} }, true},
		{"its time", func(j *Job) {
			j.Spec.Exec, j.Spec.Timeout = []string{"/bin/sh", "-c", "sleep 100"}, bundle.Duration(time.Millisecond)
		}, true},
		{"no room", func(j *Job) { j.Spec.Exec, j.Reserve = nil, 1<<62 }, false},
		{"no room while it runs", func(j *Job) { j.Spec.Exec, j.Reserve = []string{"/bin/sh", "-c", "sleep 100"}, 1<<62 }, false},
		{"a new slot that is there", func(j *Job) { j.New = j.Old }, false},
		{"an old slot that cannot be read", func(j *Job) { j.Old += "-gone" }, false},
		{"too much for one process to begin with", func(j *Job) { j.Env = append(j.Env, "X="+strings.Repeat("x", 1<<20)) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJob(t, "exit")
			c.change(&j)
			_, err := Runner{}.Run(context.Background(), j)
			f, ok := errors.AsType[*Failed](err)
			if !ok || f.Own != c.own {
				t.Errorf("%v, its own: %v", err, ok && f.Own)
			}
		})
	}
	for err, own := range map[error]bool{syscall.EAGAIN: false, syscall.ENOMEM: false, syscall.EMFILE: false, syscall.ENOEXEC: true, syscall.EACCES: true} {
		if Unstartable(&os.PathError{Op: "fork/exec", Path: "x", Err: err}) != own {
			t.Errorf("%v is taken for the release's fault: %v", err, !own)
		}
	}
}

func TestOldSlotIsOutOfReach(t *testing.T) {
	for name, way := range ways(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t, "write-old")
			before := digest(t, j.Old)
			_, err := Runner{Protect: way}.Run(context.Background(), j)
			if digest(t, j.Old) != before {
				t.Fatal("the old slot has changed")
			}
			if errors.Is(err, ErrOldChanged) {
				t.Errorf("error: %v", err)
			}
			// Root may write to the throw-away copy; all others are told.
			if told := way == ProtectMount || os.Geteuid() != 0; told && (err == nil || !strings.Contains(err.Error(), "exit status 5")) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// Planted: a writer that gets around the protection is found out.
func TestOldSlotChangeIsFound(t *testing.T) {
	j := newJob(t, "write-path")
	j.Env = append(j.Env, "TEST_PATH="+j.Old)
	if _, err := (Runner{Protect: ProtectCopy}).Run(context.Background(), j); !errors.Is(err, ErrOldChanged) {
		t.Errorf("error: %v", err)
	}
	// It is found also behind another failure.
	j = newJob(t, "write-path")
	j.Env = append(j.Env, "TEST_PATH="+j.Old)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	writeTree(t, j.Old, nil)
	if _, err := (Runner{Protect: ProtectCopy}).Run(ctx, j); !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
}

func TestNewSlotMustBeUsable(t *testing.T) {
	if _, err := (Runner{}).Run(context.Background(), newJob(t, "link-out")); err == nil || !strings.Contains(err.Error(), "not inside the slot") {
		t.Errorf("error: %v", err)
	}
}

func TestRefusesToBegin(t *testing.T) {
	for name, spoil := range map[string]func(j *Job){
		"new slot not empty": func(j *Job) { writeTree(t, j.New, map[string]string{"x": ""}) },
		"new slot missing":   func(j *Job) { j.New += "x" },
		"old slot missing":   func(j *Job) { j.Old += "x" },
		"new inside old":     func(j *Job) { j.New = filepath.Join(j.Old, "new"); os.Mkdir(j.New, 0o700) },
		"relative path":      func(j *Job) { j.Old = "state/1" },
	} {
		j := newJob(t, "upper")
		spoil(&j)
		var failed *Failed
		if _, err := (Runner{}).Run(context.Background(), j); !errors.As(err, &failed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInstall(t *testing.T) {
	j := newJob(t, "")
	j.Old, j.From = "", 0
	if res, err := (Runner{}).Run(context.Background(), j); err != nil || res != (Result{}) {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestDefaultCopy(t *testing.T) {
	j := newJob(t, "")
	writeTree(t, j.Old, oldState)
	if err := errors.Join(
		os.Symlink("sub/b", filepath.Join(j.Old, "link")),
		os.Symlink("../a", filepath.Join(j.Old, "sub", "up")),
		os.Mkdir(filepath.Join(j.Old, "empty"), 0o750),
		os.Chmod(filepath.Join(j.Old, "a"), 0o400),
		os.Chmod(filepath.Join(j.Old, "sub"), 0o555),
		os.Chtimes(filepath.Join(j.Old, "a"), time.Unix(1000, 0), time.Unix(1000, 0)),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Chmod(filepath.Join(j.Old, "sub"), 0o755)
		os.Chmod(filepath.Join(j.New, "sub"), 0o755)
	})
	res, err := Runner{}.Run(context.Background(), j)
	if err != nil {
		t.Fatal(err)
	}
	d, objects, size, err := DigestTree(j.New)
	if err != nil || d != digest(t, j.Old) {
		t.Errorf("the copy is not the original (%v)", err)
	}
	if res.Objects != 4 || objects != 4 || res.Bytes != size {
		t.Errorf("result %+v; the copy holds %d, %d", res, objects, size)
	}
	if info, err := os.Stat(filepath.Join(j.New, "a")); err != nil || !info.ModTime().Equal(time.Unix(1000, 0)) {
		t.Errorf("time not kept: %v, %v", info, err)
	}
}

func TestCopyKeepsHoles(t *testing.T) {
	j := newJob(t, "")
	f, err := os.Create(filepath.Join(j.Old, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("in the middle"), 64<<20)
	if err := errors.Join(err, f.Truncate(1<<30), f.Close()); err != nil {
		t.Fatal(err)
	}
	if u, err := measure(j.Old); err != nil || u.disk > 1<<20 {
		t.Skipf("no holes here: %+v, %v", u, err)
	}
	if _, err := (Runner{}).Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	u, err := measure(j.New)
	if err != nil || u.disk > 1<<20 || u.bytes < 1<<30 {
		t.Errorf("the copy: %+v, %v", u, err)
	}
	got := make([]byte, 13)
	if f, err := os.Open(filepath.Join(j.New, "sparse")); err != nil {
		t.Error(err)
	} else if _, err := f.ReadAt(got, 64<<20); err != nil || string(got) != "in the middle" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCopyRefuses(t *testing.T) {
	for name, plant := range map[string]func(dir string) error{
		"named pipe": func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "x"), 0o600) },
		"socket": func(dir string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "x"), Net: "unix"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		},
		"not inside": func(dir string) error { return os.Symlink("../../etc", filepath.Join(dir, "x")) },
	} {
		j := newJob(t, "")
		if err := plant(j.Old); err != nil {
			t.Fatal(err)
		}
		_, err := Runner{}.Run(context.Background(), j)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), filepath.Join(j.Old, "x")) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := fingerprintOf(j.Old); err != nil {
			t.Errorf("%s: fingerprint: %v", name, err)
		}
		if _, _, _, err := DigestTree(j.Old); err != nil {
			t.Errorf("%s: digest: %v", name, err)
		}
	}
}

func TestCopyLimits(t *testing.T) {
	j := newJob(t, "")
	j.Spec.DiskMax = 1
	if _, err := (Runner{}).Run(context.Background(), j); err == nil || !strings.Contains(err.Error(), "disk_max") {
		t.Errorf("error: %v", err)
	}
	if err := CheckSpace(t.TempDir(), 1<<62); err == nil || !strings.Contains(err.Error(), "needed") {
		t.Errorf("error: %v", err)
	}
	need, err := NeedBytes(j.Old)
	if err != nil || need < diskReserve {
		t.Errorf("need %d, %v", need, err)
	}
}

// withObjects gives a job the state of a future object, and a folder for that
// of the past object.
func withObjects(t *testing.T, j Job) Job {
	t.Helper()
	dir := t.TempDir()
	j.Future, j.Past = filepath.Join(dir, "future"), filepath.Join(dir, ".new-past")
	writeTree(t, j.Future, map[string]string{"a": "future"})
	if err := os.Mkdir(j.Past, 0o700); err != nil {
		t.Fatal(err)
	}
	return j
}

func TestStateOfObjects(t *testing.T) {
	for name, way := range ways(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := withObjects(t, newJob(t, "objects"))
			before := digest(t, j.Future)
			if _, err := (Runner{Protect: way}).Run(context.Background(), j); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(filepath.Join(j.Past, "seen")); string(got) != "future" {
				t.Errorf("the past object's state is %q", got)
			}
			if digest(t, j.Future) != before {
				t.Error("the future object's state has changed")
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(j.New), ".old-*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A transform is told of the states that there are, and of no others.
func TestStateOfObjectsNotThere(t *testing.T) {
	j := newJob(t, "environment")
	for _, want := range []bool{false, true} {
		var failed *Failed
		if _, err := (Runner{}).Run(context.Background(), j); !errors.As(err, &failed) {
			t.Fatal(err)
		}
		for _, name := range []string{"MOULT_FUTURE_STATE=", "MOULT_PAST_STATE="} {
			if strings.Contains(failed.Output, name) != want {
				t.Errorf("%s there: %v, want %v, in %q", name, !want, want, failed.Output)
			}
		}
		j = withObjects(t, newJob(t, "environment"))
	}
	// Without a program there is nobody to make the past object's state.
	j = withObjects(t, newJob(t, ""))
	if _, err := (Runner{}).Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	if empty, err := isEmpty(j.Past); !empty || err != nil {
		t.Errorf("the past object's state: empty %v, %v", empty, err)
	}
}

func TestFutureStateIsOutOfReach(t *testing.T) {
	for name, way := range ways(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := withObjects(t, newJob(t, "write-future"))
			before := digest(t, j.Future)
			_, err := Runner{Protect: way}.Run(context.Background(), j)
			if digest(t, j.Future) != before {
				t.Fatal("the future object's state has changed")
			}
			// Root may write to the throw-away copy; all others are told.
			if told := way == ProtectMount || os.Geteuid() != 0; told && (err == nil || !strings.Contains(err.Error(), "exit status 5")) {
				t.Errorf("error: %v", err)
			}
		})
	}
	// Planted: a writer that gets around the protection is found out.
	j := withObjects(t, newJob(t, "write-path"))
	j.Env = append(j.Env, "TEST_PATH="+j.Future)
	if _, err := (Runner{Protect: ProtectCopy}).Run(context.Background(), j); !errors.Is(err, ErrOldChanged) || !strings.Contains(err.Error(), j.Future) {
		t.Errorf("error: %v", err)
	}
}

func TestPastStateMustBeUsable(t *testing.T) {
	if _, err := (Runner{}).Run(context.Background(), withObjects(t, newJob(t, "past-link-out"))); err == nil || !strings.Contains(err.Error(), "the state of the past object is not usable") {
		t.Errorf("error: %v", err)
	}
	j := withObjects(t, newJob(t, "past-disk"))
	j.Spec.DiskMax = 1 << 20
	if _, err := (Runner{}).Run(context.Background(), j); err == nil || !strings.Contains(err.Error(), "transform.disk_max") {
		t.Errorf("error: %v", err)
	}
	for name, spoil := range map[string]func(j *Job){
		"past state not empty":  func(j *Job) { writeTree(t, j.Past, map[string]string{"x": ""}) },
		"past state missing":    func(j *Job) { j.Past += "x" },
		"future state missing":  func(j *Job) { j.Future += "x" },
		"past inside the slot":  func(j *Job) { j.Past = filepath.Join(j.New, "past") },
		"past is future":        func(j *Job) { j.Past = j.Future },
		"relative future state": func(j *Job) { j.Future = "objects/2/future" },
	} {
		j := withObjects(t, newJob(t, "upper"))
		spoil(&j)
		var failed *Failed
		if _, err := (Runner{}).Run(context.Background(), j); !errors.As(err, &failed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

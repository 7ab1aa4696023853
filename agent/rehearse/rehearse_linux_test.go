package rehearse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
	"moult/agent/control"
	"moult/simlayer/host"
	"moult/store/bundle"
	"moult/transforms"
	"moult/transforms/stray"
)

// TestMain lets the test binary be the processes of a rehearsal, and the programs of a
// release.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case CommandName:
			os.Exit(Main(os.Args[2:], os.Stdout, os.Stderr))
		case bounds.CommandName:
			os.Exit(bounds.Main(os.Args[2:], os.Stderr))
		case host.CommandName:
			os.Exit(host.Main(os.Args[2:], os.Stderr))
		case "test-migrate", "test-soft", "test-check", "test-snapshot", "test-agent", "test-given", "test-bad", "test-out":
			if err := be(os.Args[1], os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func be(what string, args []string) error {
	switch what {
	case "test-migrate":
		data, err := os.ReadFile(filepath.Join(os.Getenv("MOULT_OLD"), "data"))
		switch {
		case err != nil:
			return err
		case strings.Contains(string(data), "busy"):
			os.Exit(21)
		case strings.Contains(string(data), "hang"):
			select {}
		case strings.Contains(string(data), "unreadable"):
			return errors.New("cannot parse 1 of 10000 objects")
		}
		if rest := os.Getenv("MOULT_COMPLEMENT"); rest != "" {
			kept, err := os.ReadFile(filepath.Join(rest, "kept"))
			if err != nil {
				return err
			}
			data = append(data, kept...)
		}
		return os.WriteFile(filepath.Join(os.Getenv("MOULT_NEW"), "data"), append(data, '+'), 0o600)
	case "test-snapshot":
		_, err := http.Get("http://" + os.Getenv("MOULT_SERVICE_API") + "/snapshot")
		return errors.Join(err, os.WriteFile(filepath.Join(os.Getenv("MOULT_NEW"), "data"), []byte("snapshot"), 0o600))
	case "test-check":
		return check(args)
	case "test-soft":
		return serve(args[0], args[1], args[2])
	case "test-bad":
		if len(args) == 1 {
			return badTransform(args[0])
		}
		return badSoftware(args[0], args[1], args[2])
	case "test-out":
		fmt.Println("writing outside:", os.WriteFile(args[2], nil, 0o600))
		own := filepath.Join(os.Getenv("TMPDIR"), "own")
		if err := errors.Join(os.WriteFile(filepath.Join(args[0], "lock"), nil, 0o600), os.WriteFile(own, nil, 0o600)); err != nil {
			return err
		}
		return serve(args[0], args[1], "")
	case "test-given":
		return serve(args[0], "given", args[2])
	}
	j := job(args[0], "fine")
	j.Software.Argv[4] = "hangs"
	err := j.prepare()
	for _, part := range []string{partCopy, args[1]} {
		if err == nil {
			_, _, err = j.part(context.Background(), part)
		}
	}
	return err
}

// serve is software. Where its state says so it is never healthy.
func serve(state, addr, out string) error {
	data, err := os.ReadFile(filepath.Join(state, "data"))
	if err != nil {
		return err
	}
	if out != "" && out != "hangs" {
		c, err := net.DialTimeout("tcp", out, time.Second)
		if err == nil {
			c.Close()
		}
		fmt.Println("calling out:", err)
	}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if strings.Contains(string(data), "ill") || out == "hangs" {
			fmt.Println("I am ill")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/v2", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"new": %q}`, data) })
	if addr != "given" {
		return http.ListenAndServe(addr, nil)
	}
	if os.Getenv("LISTEN_FDS") != "1" || os.Getenv("LISTEN_FDNAMES") != "api" {
		return errors.New("it was given no socket")
	}
	l, err := net.FileListener(os.NewFile(3, "given"))
	if err != nil {
		return err
	}
	return http.Serve(l, nil)
}

// check asks as a new caller and as an old one, and compares with what it is told.
func check(want []string) error {
	for i, at := range []string{os.Getenv("MOULT_SERVICE_API") + "/v2", os.Getenv("MOULT_PAST_API") + "/v1"} {
		resp, err := http.Get("http://" + at)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if got := strings.TrimSpace(string(body)); got != want[i] {
			return fmt.Errorf("%s: %s, %q, want %q", at, resp.Status, got, want[i])
		}
	}
	return nil
}

const pastRules = `call "GET /v1" {
  next "GET /v2" {}
  response "200" {
    body = "{old: .body.new}"
  }
}
default {
  deny {
    reason = "no such call"
  }
}
`

// job rehearses releases 2 and 3 on a state whose only file says data.
func job(dir, data string) Job {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	state := filepath.Join(dir, "state-1")
	if err := os.MkdirAll(state, 0o700); err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(state, "data"), []byte(data), 0o600); err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	addr := l.Addr().String()
	l.Close()
	step := Step{Dir: dir, Transform: bundle.Transform{Exec: []string{exe, "test-migrate"}, Timeout: bundle.Duration(time.Hour)}}
	step.Past.Simulation = bundle.Simulation{Kind: bundle.SimulateCompatible}
	j := Job{Folder: filepath.Join(dir, "rehearsal"), From: 1, State: state, Timeout: time.Minute, Env: []string{"PATH=/bin:/usr/bin"}}
	for v := bundle.Version(2); v <= 3; v++ {
		step.To = v
		j.Steps = append(j.Steps, step)
	}
	j.Software = Software{
		Dir: dir, Argv: []string{exe, "test-soft", j.Slot(3), addr, ""}, HealthAddr: addr,
		Health:   bundle.Health{HTTP: "/healthz", Interval: bundle.Duration(50 * time.Millisecond), HealthyDeadline: bundle.Duration(20 * time.Second)},
		Services: []Service{{Name: "api", Protocol: bundle.ProtocolHTTP, Addr: addr}},
	}
	return j
}

// rehearse runs j and looks whether all of it is gone, and the state untouched.
func rehearse(t *testing.T, j Job) (Report, error) {
	t.Helper()
	before, _, _, err := transforms.DigestTree(j.State)
	if err != nil {
		t.Fatal(err)
	}
	r, runErr := Run(t.Context(), j, slog.New(slog.NewTextHandler(t.Output(), nil)))
	after, _, _, err := transforms.DigestTree(j.State)
	if err != nil || after != before {
		t.Errorf("the live state has changed: %v", err)
	}
	if left, err := os.ReadDir(j.Folder); err == nil {
		t.Errorf("it leaves %v", left)
	}
	if left, err := stray.Find(mark(j.Folder)); err != nil || len(left) != 0 {
		t.Errorf("%d processes still run, %v", len(left), err)
	}
	return r, runErr
}

// A release that works on the copy is checked as a new caller and as an old one.
func TestFit(t *testing.T) {
	dir := t.TempDir()
	rules := filepath.Join(dir, "past.hcl")
	if err := os.WriteFile(rules, []byte(pastRules), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, past := range map[string]Past{
		`{"new": "fine++"}`: {Simulation: bundle.Simulation{Kind: bundle.SimulateRules}, File: rules},
	} {
		j := job(dir, "fine")
		j.Steps[1].Past = past
		j.Check = []string{j.Software.Argv[0], "test-check", name, `{"old":"fine++"}`}
		r, err := rehearse(t, j)
		if err != nil {
			t.Fatal(err)
		}
		var stages []string
		for _, s := range r.Stages {
			stages = append(stages, fmt.Sprintf("%s %d", s.Name, s.Version))
		}
		if got := strings.Join(stages, ", "); got != "copy 1, transform 2, transform 3, start 3, health 3, check 3" || r.Stages[0].Bytes != 4 || r.Took == 0 {
			t.Errorf("%s: %+v", got, r)
		}
		j.Check[2] = "another"
		if _, err := rehearse(t, j); !isUnfit(err, "its check failed", "want \"another\"") {
			t.Errorf("a check that fails: %v", err)
		}
	}
}

// In a sandbox a check has the state of the software that it checks, and nothing else.
func TestCheckInSandbox(t *testing.T) {
	if lacks := sandbox.Lacks(); lacks != "" {
		t.Skip("skipped: ", lacks)
	}
	dir := t.TempDir()
	j := job(dir, "fine")
	j.Sandbox = &sandbox.Sandbox{Given: []string{filepath.Dir(j.Software.Argv[0])}}
	outside := filepath.Join(dir, "outside")
	for _, c := range []struct{ script, want string }{
		{`: < "$MOULT_STATE/data" && echo x > "$MOULT_STATE/lock" && echo x > "$TMPDIR/x"`, ""},
		{`echo x > "` + outside + `"`, "its check failed"},
	} {
		j.Check = []string{"/bin/sh", "-c", c.script}
		if _, err := rehearse(t, j); (c.want == "") != (err == nil) || err != nil && !isUnfit(err, c.want, "readable and writable in agent.hcl") {
			t.Errorf("%s: %v", c.script, err)
		}
	}
	j.Sandbox = nil
	if _, err := rehearse(t, j); err != nil {
		t.Errorf("without the sandbox: %v", err)
	}
}

// In a sandbox the software has the copy of its state, a folder for temporary files, and what the
// operator lets it reach.
func TestSoftwareInSandbox(t *testing.T) {
	if lacks := sandbox.Lacks(); lacks != "" {
		t.Skip("skipped: ", lacks)
	}
	dir := t.TempDir()
	writable := filepath.Join(dir, "writable")
	if err := os.Mkdir(writable, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file  string
		boxed bool
		wrote bool
	}{"outside": {filepath.Join(dir, "outside"), true, false}, "the live state": {filepath.Join(dir, "state-1", "outside"), true, false},
		"given": {filepath.Join(writable, "x"), true, true}, "no sandbox": {filepath.Join(dir, "unheld"), false, true}} {
		j := job(dir, "fine")
		j.Steps[1].Dir, j.Software.Dir = "/usr", "/usr"
		j.Software.Argv[1], j.Software.Argv[4] = "test-out", c.file
		j.Software.Env = []string{"TMPDIR=" + dir}
		if c.boxed {
			j.Sandbox = &sandbox.Sandbox{Given: []string{filepath.Dir(j.Software.Argv[0])}, GivenToWrite: []string{writable}}
		}
		if _, err := rehearse(t, j); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(c.file); (err == nil) != c.wrote {
			t.Errorf("%s: %v; written: want %v", name, err, c.wrote)
		}
	}
	j := job(dir, "fine")
	j.Sandbox = &sandbox.Sandbox{Given: []string{filepath.Dir(j.Software.Argv[0])}}
	j.Software.Argv = []string{"/bin/sh", "-c", "echo x >" + filepath.Join(dir, "outside")}
	if _, err := rehearse(t, j); !isUnfit(err, "readable and writable in agent.hcl", "ermission denied") {
		t.Errorf("software that gives up: %v", err)
	}
}

// What was kept when a release was taken back goes into the copy as it would into the slot.
func TestForwardAgain(t *testing.T) {
	dir := t.TempDir()
	j := job(dir, "fine")
	j.Steps[1].Complement = filepath.Join(dir, "complement-3")
	kept := filepath.Join(j.Steps[1].Complement, "kept")
	rules := filepath.Join(dir, "past.hcl")
	if err := errors.Join(os.Mkdir(j.Steps[1].Complement, 0o700), os.WriteFile(kept, []byte("-kept"), 0o600), os.WriteFile(rules, []byte(pastRules), 0o600)); err != nil {
		t.Fatal(err)
	}
	j.Steps[1].Past = Past{Simulation: bundle.Simulation{Kind: bundle.SimulateRules}, File: rules}
	j.Check = []string{j.Software.Argv[0], "test-check", `{"new": "fine+-kept+"}`, `{"old":"fine+-kept+"}`}
	if _, err := rehearse(t, j); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(kept); string(data) != "-kept" {
		t.Errorf("of what was kept there is %q, %v", data, err)
	}
}

func isUnfit(err error, want ...string) bool {
	u, ok := errors.AsType[*Unfit](err)
	for _, w := range want {
		ok = ok && strings.Contains(u.Reason, w)
	}
	return ok
}

func TestUnfit(t *testing.T) {
	for _, c := range []struct {
		name, data string
		change     func(*Job)
		want       []string
	}{
		{"a transform that cannot read this state", "unreadable", nil, []string{"transform 1 -> 2", "cannot parse 1 of 10000 objects"}},
		{"software that is never healthy", "ill", func(j *Job) { j.Software.Health.HealthyDeadline = bundle.Duration(2 * time.Second) }, []string{"version 3: it was not ready", "I am ill"}},
		{"software that does not start", "fine", func(j *Job) { j.Software.Argv[2] = "/no/such/folder" }, []string{"version 3: it ended before it was ready", "no such file"}},
		{"a transform that hangs", "hang", func(j *Job) { j.Timeout = time.Second }, []string{"not done after ", "(rehearse.timeout): it was still to transform the copy to version 2"}},
		{"a snapshot that fails", "fine", func(j *Job) { j.Snapshot = []string{"/bin/sh", "-c", "echo no room for it; exit 3"} }, []string{"its snapshot failed", "exit status 3", "no room for it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := job(t.TempDir(), c.data)
			if c.change != nil {
				c.change(&j)
			}
			_, err := rehearse(t, j)
			for j.Timeout < time.Minute && err != nil && !isUnfit(err) { // on a busy machine it had not come so far
				j.Timeout *= 2
				_, err = rehearse(t, j)
			}
			if !isUnfit(err, c.want...) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// Software that takes sockets, and listens nowhere itself, is given them.
func TestInherits(t *testing.T) {
	j := job(t.TempDir(), "fine")
	j.Software.Argv[1], j.Software.Services[0].Inherits = "test-given", true
	if _, err := rehearse(t, j); err != nil {
		t.Error(err)
	}
	j.Software.Services[0].Inherits = false
	if _, err := rehearse(t, j); !isUnfit(err, "it was given no socket") {
		t.Errorf("without: %v, so this test shows nothing", err)
	}
}

// What the machine lacks is no Unfit.
func TestMachine(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Job)
		want   string
	}{
		{"a copy that takes too long", func(j *Job) { j.Timeout = time.Nanosecond }, "no fault of the release"},
		{"a state that cannot be read", func(j *Job) { j.State += "-gone" }, "no such file"},
		{"an address that is taken", func(j *Job) { j.Software.Services[0] = Service{"api", bundle.ProtocolHTTP, "192.0.2.1:1", true} }, "cannot assign"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := job(t.TempDir(), "fine")
			c.change(&j)
			_, err := Run(t.Context(), j, slog.New(slog.DiscardHandler))
			if _, is := errors.AsType[*Unfit](err); is || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q and no Unfit", err, c.want)
			}
		})
	}
}

// A release is not blamed where the disk is full.
func TestFullDisk(t *testing.T) {
	bad := unfit("cannot write")
	j := Job{Folder: t.TempDir()}
	if err := j.believe(bad); err != error(bad) {
		t.Errorf("with room: %v", err)
	}
	j.Folder += "/gone"
	if err := j.believe(bad); isUnfit(err) {
		t.Errorf("where nobody knows whether there is room: %v", err)
	}
}

// What is no fault of the release is no Unfit.
func TestNoFault(t *testing.T) {
	if _, err := rehearse(t, job(t.TempDir(), "busy")); !errors.Is(err, transforms.ErrLater) {
		t.Errorf("a transform that asks for later: %v", err)
	}
	j := job(t.TempDir(), "hang")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the agent ends")
	j.Watch = func(n control.RehearsalNews) {
		if strings.HasPrefix(n.Begins, "transform") {
			cancel(stop)
		}
	}
	if _, err := Run(ctx, j, slog.New(slog.DiscardHandler)); !errors.Is(err, stop) {
		t.Errorf("one that is stopped: %v", err)
	}
}

// Software of a rehearsal reaches nobody, and its address is its own.
func TestNoWayOut(t *testing.T) {
	out, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	called := make(chan struct{}, 10)
	go func() {
		for {
			c, err := out.Accept()
			if err != nil {
				return
			}
			called <- struct{}{}
			c.Close()
		}
	}()
	j := job(t.TempDir(), "fine")
	j.Software.Argv[4] = out.Addr().String()
	// The address is taken, by the software that runs: there it is free.
	live, err := net.Listen("tcp", j.Software.HealthAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	r, err := rehearse(t, j)
	if r.Note != "" {
		t.Skip("no network of its own here: ", r.Note)
	}
	if err != nil || len(called) != 0 {
		t.Errorf("%v, and it called out %d times", err, len(called))
	}
	// Where there is none it is not started.
	if err := j.prepare(); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{partCopy, partRun} {
		if _, _, err := j.part(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(j.Folder, "software.log")); err == nil || len(called) != 0 {
		t.Errorf("without a network of its own it was started (%v), and called out %d times", err, len(called))
	}
	if err := Sweep(j.Folder); err != nil {
		t.Error(err)
	}
	// And it would have called out.
	live.Close()
	soft := exec.Command(j.Software.Argv[0], "test-soft", j.State, j.Software.HealthAddr, out.Addr().String())
	if err := soft.Start(); err != nil {
		t.Fatal(err)
	}
	<-called
	if err := soft.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = soft.Wait() // it was killed
}

// Only what this process may not do says that there can be no network; the rest is tried again.
func TestCannot(t *testing.T) {
	for err, is := range map[error]bool{syscall.EPERM: true, syscall.ENOSPC: true, syscall.EAGAIN: false, syscall.ENOMEM: false, errNotAlone: true} {
		if errors.Is(cannot(fmt.Errorf("clone: %w", err)), errCannot) != is {
			t.Errorf("%v: %v", err, !is)
		}
	}
}

// Links that lead out are copied as they are, for a transform that leaves them out; what
// cannot be copied is final, and said to be for a snapshot.
func TestStrangeState(t *testing.T) {
	j := job(t.TempDir(), "fine")
	if err := os.Symlink("/etc/passwd", filepath.Join(j.State, "away")); err != nil {
		t.Fatal(err)
	}
	if _, err := rehearse(t, j); err != nil {
		t.Errorf("with a link that leads out: %v", err)
	}
	j.Steps[0].Transform.Exec = nil
	if _, err := rehearse(t, j); !isUnfit(err, "not inside the slot") {
		t.Errorf("with a link that leads out, and no transform: %v", err)
	}
	j = job(t.TempDir(), "fine")
	if err := syscall.Mknod(filepath.Join(j.State, "null"), syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
		t.Skip("no devices can be made here: ", err)
	}
	if _, err := rehearse(t, j); !isUnfit(err, "is a device", "rehearse.snapshot") {
		t.Errorf("with a device: %v", err)
	}
}

// A snapshot program reaches the software that runs, and its copy is what counts.
func TestSnapshot(t *testing.T) {
	asked := make(chan struct{}, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} }))
	defer l.Close()
	j := job(t.TempDir(), "unreadable")
	j.Snapshot, j.SnapshotDir, j.Live = []string{j.Software.Argv[0], "test-snapshot"}, "/", map[string]string{"api": l.Addr().String()}
	if _, err := rehearse(t, j); err != nil || len(asked) != 1 {
		t.Errorf("%v, and the software was asked %d times", err, len(asked))
	}
}

// An agent that is killed leaves a rehearsal, which the next one ends and removes; where its
// processes are apart, they end by themselves.
func TestKilledAgent(t *testing.T) {
	for _, part := range []string{partApart, partAlone} {
		t.Run(part, func(t *testing.T) {
			dir := t.TempDir()
			killRehearsing(t, dir, part)
			folder := filepath.Join(dir, "rehearsal")
			left, err := stray.Find(mark(folder))
			if err != nil || part == partApart && len(left) == 0 {
				t.Fatalf("nothing of it is left (%v), so this test shows nothing", err)
			}
			for part == partAlone && len(left) > 0 { // the kernel ends them
				if left, err = stray.Find(mark(folder)); err != nil {
					t.Fatal(err)
				}
			}
			if err := Sweep(folder); err != nil {
				t.Fatal(err)
			}
			if left, err := stray.Find(mark(folder)); err != nil || len(left) != 0 {
				t.Errorf("%d processes still run, %v", len(left), err)
			}
			if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its folder: %v", err)
			}
		})
	}
}

// killRehearsing kills an agent whose rehearsal has come so far that its software runs.
func killRehearsing(t *testing.T, dir, part string) {
	t.Helper()
	agent := exec.Command(os.Args[0], "test-agent", dir, part)
	said := &tail{}
	agent.Stderr = said
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	for runs := false; !runs; {
		select {
		case <-ended:
			t.Skip("it cannot be so far apart here: ", said.String())
		default:
		}
		if f, err := os.Open(filepath.Join(dir, "rehearsal", "software.log")); err == nil {
			runs = bufio.NewScanner(f).Scan()
			f.Close()
		}
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// A program sees no process but those of its rehearsal, and what it starts that hides ends with
// it. It has no capabilities that its user has not.
func TestProcessesApart(t *testing.T) {
	j := job(t.TempDir(), "fine")
	const hidden = "31415926"
	j.Steps[0].Transform.Exec = []string{"/bin/sh", "-c", fmt.Sprintf(`kill -0 %d 2> /dev/null && exit 9
test "$(id -u)" = 0 || grep -q '^CapEff:[[:space:]]*0*$' /proc/self/status || exit 8
env -i setsid sleep %s > /dev/null 2>&1 &
cp "$MOULT_OLD/data" "$MOULT_NEW/data"`, os.Getpid(), hidden)}
	if err := j.prepare(); err != nil {
		t.Fatal(err)
	}
	defer Sweep(j.Folder)
	if _, _, err := j.part(t.Context(), partCopy); err != nil {
		t.Fatal(err)
	}
	if _, _, err := j.part(t.Context(), partAlone); errors.Is(err, errCannot) {
		t.Skip("it cannot be so far apart here: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(commands) == 0 {
		t.Fatalf("no processes: %v", err)
	}
	for _, path := range commands {
		if line, err := os.ReadFile(path); err == nil && strings.Contains(string(line), "sleep\x00"+hidden) {
			t.Errorf("%s runs on", path)
		}
	}
}

// What takes the machine's memory from what serves is ended, and that says nothing against the release.
func TestMemoryIsLeft(t *testing.T) {
	j := job(t.TempDir(), "hang")
	j.ReserveMemory = 1 << 62
	if _, err := rehearse(t, j); isUnfit(err) || !errors.Is(err, errNarrow) {
		t.Errorf("%v", err)
	}
}

package rehearse

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/transforms"
)

// badTransform is a transform with a fault. The state is what job makes: one file.
func badTransform(kind string) error {
	from, to := os.Getenv("MOULT_OLD"), os.Getenv("MOULT_NEW")
	data, err := os.ReadFile(filepath.Join(from, "data"))
	if err != nil {
		return err
	}
	write := func(data string) error { return os.WriteFile(filepath.Join(to, "data"), []byte(data), 0o600) }
	switch kind {
	case "exits":
		os.Exit(1)
	case "panics":
		panic("no such field")
	case "later":
		os.Exit(21)
	case "hangs":
		select {}
	case "killed":
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "writes to the old state":
		return errors.Join(os.WriteFile(filepath.Join(from, "data"), []byte("mine"), 0o600), write("mine"))
	case "removes the old state":
		return errors.Join(os.Remove(filepath.Join(from, "data")), write("mine"))
	case "loses everything":
		return nil
	case "loses the end":
		return write(string(data[:len(data)-1]))
	case "mistakes a field":
		return write(strings.ToUpper(string(data)))
	case "doubles":
		return write(string(data) + string(data))
	case "leaves a link":
		return errors.Join(write(string(data)), os.Symlink("/etc", filepath.Join(to, "conf")))
	case "leaves a pipe":
		return errors.Join(write(string(data)), syscall.Mkfifo(filepath.Join(to, "pipe"), 0o600))
	case "fills the disk":
		block := make([]byte, 1<<20)
		f, err := os.Create(filepath.Join(to, "data"))
		for err == nil {
			_, err = f.Write(block)
		}
		return err
	case "eats memory":
		var all [][]byte
		for {
			block := make([]byte, 8<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			all = append(all, block)
			if len(all) > 64 {
				return write(fmt.Sprint(len(all)))
			}
		}
	}
	return write(string(data))
}

// badSoftware is software with a fault, on the state and at the address that it is given.
func badSoftware(kind, state, addr string) error {
	data, err := os.ReadFile(filepath.Join(state, "data"))
	if err != nil {
		return err
	}
	asked, began := 0, time.Now()
	status := func() int { return http.StatusOK }
	switch kind {
	case "cannot read it":
		return fmt.Errorf("%s: unknown form", data)
	case "dies at once":
		os.Exit(0)
	case "panics on a call":
		status = func() int { os.Exit(2); return 0 }
	case "is never well":
		status = func() int { return http.StatusInternalServerError }
	case "is well once":
		status = func() int {
			if asked++; asked == 1 {
				return http.StatusOK
			}
			return http.StatusInternalServerError
		}
	case "dies soon after":
		status = func() int {
			if asked++; asked > 2 {
				os.Exit(1)
			}
			return http.StatusOK
		}
	case "is slow to start":
		status = func() int {
			if time.Since(began) < time.Hour {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		}
	case "listens elsewhere":
		addr = "127.0.0.1:0"
	case "hangs":
		select {}
	}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status()) })
	http.HandleFunc("/v2", func(w http.ResponseWriter, _ *http.Request) {
		if kind == "answers wrong" {
			data = []byte("0")
		}
		fmt.Fprintf(w, `{"new": %q}`, data)
	})
	return http.ListenAndServe(addr, nil)
}

const denyingRules = `default {
  deny {
    reason = "no such call"
  }
}
`

// TestBadReleases plants releases that are bad, and shows that a rehearsal stops each, by
// what it says; docs/reliability.md lists them. No node has been down then.
func TestBadReleases(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	for i, bad := range []struct {
		transform, software, rules string // what is wrong with each; "": nothing
		check                      string // instead of the release's own
		want                       string
	}{
		{}, // nothing is: it fits, so that what follows is what stops the others
		{transform: "exits", want: "exit status 1"},
		{transform: "panics", want: "no such field"},
		{transform: "later", want: "later"},
		{transform: "hangs", want: "timeout"},
		{transform: "killed", want: "killed"},
		{transform: "writes to the old state", want: "exit status 1"},
		{transform: "removes the old state", want: "exit status 1"},
		{transform: "loses everything", want: "no such file"},
		{transform: "loses the end", want: "its check failed"},
		{transform: "mistakes a field", want: "its check failed"},
		{transform: "doubles", want: "its check failed"},
		{transform: "leaves a link", want: "not inside the slot"},
		{transform: "leaves a pipe", want: "the new slot is not usable"},
		{transform: "fills the disk", want: "disk_max"},
		{transform: "eats memory", want: "transform.memory_max"},
		{software: "cannot read it", want: "unknown form"},
		{software: "dies at once", want: "it ended before it was ready"},
		{software: "panics on a call", want: "it ended before it was ready"},
		{software: "is never well", want: "it was not ready"},
		{software: "is well once", want: "version 3: it "},
		{software: "dies soon after", want: "version 3: it ended"},
		{software: "is slow to start", want: "it was not ready"},
		{software: "listens elsewhere", want: "it was not ready"},
		{software: "hangs", want: "it was not ready"},
		{software: "answers wrong", want: "its check failed"},
		{rules: strings.Replace(pastRules, ".body.new", ".body.neu", 1), want: "its check failed"},
		{rules: denyingRules, want: "its check failed"},
		{check: "exit 1", want: "its check failed"},
		{check: "exit 21", want: "its check failed"},
	} {
		t.Run(fmt.Sprintf("transform %s, software %s, rules %.10s, check %s", bad.transform, bad.software, bad.rules, bad.check), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			j := job(dir, "fine")
			j.Node[0] = byte(i) // each is another node's: software is ended by its node's mark
			j.Steps = j.Steps[1:]
			exe := j.Software.Argv[0]
			step := &j.Steps[0]
			step.Transform = bundle.Transform{
				Exec: []string{exe, "test-bad", bad.transform}, Timeout: bundle.Duration(time.Hour), DiskMax: 4 << 20,
			}
			if bad.transform == "eats memory" {
				step.Transform.MemoryMax = 128 << 20
			}
			if bad.transform == "hangs" {
				step.Transform.Timeout = bundle.Duration(time.Second)
			}
			rules := pastRules
			if bad.rules != "" {
				rules = bad.rules
			}
			file := filepath.Join(dir, "past.hcl")
			if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
				t.Fatal(err)
			}
			step.Past = Past{Simulation: bundle.Simulation{Kind: bundle.SimulateRules}, File: file}
			j.Software.Argv = []string{exe, "test-bad", bad.software, j.Slot(3), j.Software.HealthAddr}
			j.Software.Health.HealthyDeadline = bundle.Duration(time.Second)
			j.Software.Health.MinHealthyTime = bundle.Duration(300 * time.Millisecond)
			if bad.want == "" || bad.rules != "" || bad.check != "" || strings.Contains(bad.want, "check") {
				j.Software.Health.HealthyDeadline = bundle.Duration(time.Minute)
			}
			j.Check = []string{exe, "test-check", `{"new": "fine"}`, `{"old":"fine"}`}
			if bad.check != "" {
				j.Check = []string{"/bin/sh", "-c", bad.check}
			}
			_, err := rehearse(t, j)
			t.Log(err)
			stopped := isUnfit(err, bad.want) || bad.want == "" && err == nil || bad.transform == "later" && errors.Is(err, transforms.ErrLater)
			if !stopped {
				t.Errorf("%v, want %q", err, bad.want)
			}
		})
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"moult/cmd/moult/internal/cluster"
	"moult/testdata/kit"
)

var packages = flag.Bool("packages", false, "build packages, and install them in a new Debian")

// debian is a folder with a fresh Debian.
type debian struct {
	t    *testing.T
	root string
}

func newDebian(t *testing.T) debian {
	t.Helper()
	codename := runCommand(t, exec.Command("sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME"))
	d := debian{t, filepath.Join(t.TempDir(), "root")}
	out, err := exec.Command("debootstrap", "--variant=minbase", strings.TrimSpace(codename), d.root).CombinedOutput()
	switch {
	case err != nil && regexp.MustCompile(`(?m)^E: (Failed getting|Couldn't download|Invalid Release)`).Match(out):
		t.Skipf("skipped: no Debian can be fetched to install packages in: %s", out)
	case err != nil:
		t.Fatalf("debootstrap: %v\n%s", err, out)
	}
	proc := filepath.Join(d.root, "proc")
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range d.processes("sample-node") {
			_ = syscall.Kill(pid, syscall.SIGKILL) // software outlives its agent
		}
		if err := unix.Unmount(proc, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// command is one in there.
func (d debian) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.t.Context(), "/usr/bin/env", args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/usr/sbin:/bin:/sbin", "HOME=/", "DEBIAN_FRONTEND=noninteractive"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: d.root}
	return cmd
}

// as has the user of the package run it, who has no capability.
func (d debian) as(user int, cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}
	return cmd
}

// files lists all that dpkg does not keep for itself.
func (d debian) files() (all []string) {
	err := filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, d.root)
		if name == "/proc" || name == "/var/lib/dpkg" || name == "/var/log" || name == "/var/cache" {
			return fs.SkipDir
		}
		all = append(all, name)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// processes lists those of programs in there, with a word in their command line.
func (d debian) processes(word string) (all []int) {
	found, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, dir := range found {
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		line, err2 := os.ReadFile(filepath.Join(dir, "cmdline"))
		if errors.Join(err, err2) != nil || !strings.HasPrefix(exe, d.root) || !slices.Contains(strings.Split(string(line), "\x00"), word) {
			continue // it may have ended
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			d.t.Fatal(err)
		}
		all = append(all, pid)
	}
	return all
}

// systemctlLog has what the packages ask of the stand-in for systemctl: no systemd runs here.
const systemctlLog = "/var/log/systemctl"

func (d debian) putSystemctl() {
	err := os.MkdirAll(filepath.Join(d.root, "run/systemd/system"), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(d.root, "usr/bin/systemctl"), []byte("#!/bin/sh\necho \"$@\" >> "+systemctlLog+"\n"), 0o755)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// systemctl checks what was asked of it since the last check.
func (d debian) systemctl(want ...string) {
	d.t.Helper()
	log := filepath.Join(d.root, systemctlLog)
	got, err := os.ReadFile(log)
	if err == nil {
		err = os.Remove(log)
	}
	if w := strings.Join(want, "\n") + "\n"; err != nil || string(got) != w {
		d.t.Errorf("systemd was asked for %q, %v, want %q", got, err, w)
	}
}

// verifyUnit has systemd read the unit, alone and with what gives it the rights of root.
func (d debian) verifyUnit() {
	d.t.Helper()
	const unit = "/usr/lib/systemd/system/moult.service"
	file := filepath.Join(d.root, unit)
	text, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	// Older ones than 254 warn of it, and go on without it.
	if m := regexp.MustCompile(`^systemd (\d+)`).FindStringSubmatch(runCommand(d.t, exec.Command("systemd-analyze", "--version"))); m != nil && m[1] < "254" {
		if err := os.WriteFile(file, regexp.MustCompile(`(?m)^DelegateSubgroup=.*\n`).ReplaceAll(text, nil), 0o644); err != nil {
			d.t.Fatal(err)
		}
		defer func() {
			if err := os.WriteFile(file, text, 0o644); err != nil {
				d.t.Error(err)
			}
		}()
	}
	verify := func() {
		d.t.Helper()
		cmd := exec.Command("systemd-analyze", "--root="+d.root, "--man=no", "--recursive-errors=no", "verify", unit)
		if out := runCommand(d.t, cmd); strings.Contains(out, "moult") {
			d.t.Errorf("systemd says of the unit: %s", out)
		}
	}
	verify()
	dropIn := filepath.Join(d.root, "etc/systemd/system/moult.service.d")
	if err := os.CopyFS(dropIn, os.DirFS(filepath.Join(d.root, "usr/share/doc/moult/examples/moult.service.d"))); err != nil {
		d.t.Fatal(err)
	}
	verify()
	if err := os.RemoveAll(filepath.Join(d.root, "etc/systemd/system/moult.service.d")); err != nil {
		d.t.Fatal(err)
	}
}

func (d debian) install(deb string) {
	d.t.Helper()
	to := filepath.Join(d.root, "root", filepath.Base(deb))
	data, err := os.ReadFile(deb)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	runCommand(d.t, d.command("dpkg", "--install", "/root/"+filepath.Base(deb)))
	if err := os.Remove(to); err != nil {
		d.t.Fatal(err)
	}
}

func runCommand(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// build makes the packages for this machine, and returns their checksums.
func buildPackages(t *testing.T, to string, env ...string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", `umask $UMASK; exec packaging/make "$@"`, "sh", to, runtime.GOARCH)
	cmd.Env = append(os.Environ(), env...)
	runCommand(t, cmd)
	sums, err := os.ReadFile(filepath.Join(to, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	return string(sums)
}

func onlyFile(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// The packages are the same bytes when they are built again, Debian's checks find no error,
// and in a fresh Debian five nodes of the package's user roll out a release; an agent whose
// package is upgraded leaves its node serving; purged, the package leaves its data folder.
func TestPackages(t *testing.T) {
	if !*packages {
		t.Skip("run by make packages-test")
	}
	for _, tool := range []string{"debootstrap", "lintian", "dpkg", "systemd-analyze"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: packages are installed with Debian's tools: %v", err)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("skipped: only root can make a Debian to install packages in")
	}
	first, second, later := t.TempDir(), t.TempDir(), t.TempDir()
	if a, b := buildPackages(t, first, "VERSION=1.0.0", "UMASK=022"), buildPackages(t, second, "VERSION=1.0.0", "UMASK=077", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8"); a != b {
		t.Errorf("built twice, the packages differ:\n%s\n%s", a, b)
	}
	buildPackages(t, later, "VERSION=999.0.0", "UMASK=022")
	deb := onlyFile(t, filepath.Join(first, "*.deb"))
	t.Log(runCommand(t, exec.Command("lintian", "--allow-root", "--fail-on", "error", deb)))

	d := newDebian(t)
	d.putSystemctl()
	before := d.files()
	d.install(deb)
	d.systemctl("daemon-reload", "try-restart moult.service")
	d.verifyUnit()
	user := ownerOf(t, filepath.Join(d.root, "var/lib/moult"))
	if user == 0 {
		t.Error("the data folder is root's")
	}
	t.Log(runCommand(t, d.as(user, d.command("moult", "version"))))
	t.Log(runCommand(t, d.as(user, d.command("moult", "demo"))))

	d.replaceAgent(user, onlyFile(t, filepath.Join(later, "*.deb")))

	runCommand(t, d.command("dpkg", "--purge", "moult"))
	d.systemctl("--no-reload disable --now moult.service", "daemon-reload", "daemon-reload") // removed, then purged
	left := slices.DeleteFunc(d.files(), func(name string) bool {
		_, was := slices.BinarySearch(before, name)
		return was || strings.HasPrefix(name, "/var/lib/moult") || strings.HasPrefix(name, "/etc/moult/trust/")
	})
	// What is signed with is not the package's to delete.
	if _, err := os.Stat(filepath.Join(d.root, "etc/moult/trust/keys/root.pem")); err != nil {
		t.Error(err)
	}
	left = slices.DeleteFunc(left, func(name string) bool { return name == "/etc/moult" || name == "/etc/moult/trust" })
	// The data folder's owner stays in what lists users; its backups are the system's.
	left = slices.DeleteFunc(left, func(name string) bool { return strings.HasPrefix(name, "/etc/") && strings.HasSuffix(name, "-") })
	if len(left) > 0 {
		t.Errorf("purged, the package leaves %q", left)
	}
}

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

const agentHCL = `agent {
  name      = "n1"
  class     = "kv"
  root      = "/etc/moult/trust/root.json"
  bind      = "127.0.0.1:%[1]d"
  open_ring = true
  service "api" {
    address  = "127.0.0.1:%[2]d"
    versions = "%[3]d-%[4]d"
    attach   = "inherit"
  }
  adopt {
    version = 1
    command = ["/usr/bin/moult", "sample-node", "1", "--state", "${state}", "--listen", "${service.api}"]
    state   = "/srv/kv"
    health {
      http    = "/healthz"
      service = "api"
    }
  }
}
`

// replaceAgent upgrades the package under an agent whose node is called all the while, and
// has the agent restarted, as systemd does.
func (d debian) replaceAgent(user int, deb string) {
	t := d.t
	reserved, err := cluster.ReservePorts(6)
	if err != nil {
		t.Fatal(err)
	}
	defer reserved.Release()
	ports := reserved.First
	runCommand(t, d.command("moult", "trust", "init", "/etc/moult/trust"))
	runCommand(t, d.command("chmod", "-R", "a+rX", "/etc/moult/trust"))
	runCommand(t, d.command("install", "-d", "-o", "moult", "/srv/kv"))
	defer os.RemoveAll(filepath.Join(d.root, "srv/kv"))
	config := fmt.Sprintf(agentHCL, ports, ports+1, ports+2, ports+5)
	if err := os.WriteFile(filepath.Join(d.root, "etc/moult/agent.hcl"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	m := newManager(t, filepath.Join(d.root, "srv/notify"))
	if err := os.Chmod(m.socket, 0o777); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(m.socket)
	m.socket = "/srv/notify" // in there
	start := func() *exec.Cmd {
		agent := d.as(user, d.command("moult", "agent", "--config", "/etc/moult/agent.hcl"))
		var log bytes.Buffer
		agent.Stderr = &log
		if err := errors.Join(m.prepare(agent), agent.Start()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("agent:\n%s", log.String())
			}
		})
		for said := range m.said {
			if strings.HasPrefix(said, "READY=1\nSTATUS=version 1") {
				t.Logf("told: %q", said)
				break
			}
		}
		return agent
	}
	end := func(agent *exec.Cmd) {
		if err := errors.Join(agent.Process.Signal(syscall.SIGTERM), agent.Wait()); err != nil {
			t.Error(err)
		}
	}

	agent := start()
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan error)
	var calls [2]atomic.Int64
	for i, port := range []int{ports + 2, ports + 1} { // to the software itself, and by relay
		go func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for ctx.Err() == nil {
				r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port))
				if err != nil {
					called <- fmt.Errorf("after %d calls: %w", calls[i].Load(), err)
					return
				}
				r.Body.Close()
				calls[i].Add(1)
			}
			called <- nil
		}()
	}
	kit.Until(t, "the node is called", func() bool { return calls[0].Load() > 0 && calls[1].Load() > 0 })
	software := d.processes("sample-node")
	d.install(deb)
	d.systemctl("daemon-reload", "daemon-reload", "try-restart moult.service") // the last does what follows
	end(agent)
	agent = start()
	cancel()
	if err := errors.Join(<-called, <-called); err != nil {
		t.Error(err)
	}
	if now := d.processes("sample-node"); len(now) != 1 || !slices.Equal(now, software) {
		t.Errorf("the software was process %v and is %v", software, now)
	}
	t.Logf("%d calls past the agent and %d through it while the package was upgraded", calls[0].Load(), calls[1].Load())
	end(agent)
}

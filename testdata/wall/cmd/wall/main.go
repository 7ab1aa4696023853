// Command wall is node software, its check, its transform and its simulation object in
// one. Each tries what it must not be able to do, and reports what it could.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "wall:", err)
		os.Exit(1)
	}
}

func run(part string, args []string) error {
	switch part {
	case "whoami":
		fmt.Print(os.Geteuid())
		return nil
	case "serve": // the state, the address, what it answers
		return serve(args[1], args[2], args[0], "software")
	case "check": // the software, which listens before it reports
		if _, err := os.Stat(filepath.Join(args[0], "report-software")); err != nil {
			return err
		}
		return report(args[0], "check")
	case "migrate":
		if err := os.CopyFS(os.Getenv("MOULT_NEW"), os.DirFS(os.Getenv("MOULT_OLD"))); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(os.Getenv("MOULT_NEW"), "report-software")); err != nil {
			return err // it is of the version before
		}
		found, err := os.ReadFile(filepath.Join(os.Getenv("MOULT_FUTURE_STATE"), "report-object"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(os.Getenv("MOULT_NEW"), "report-future"), found, 0o644); err != nil {
			return err
		}
		return report(os.Getenv("MOULT_NEW"), "transform")
	case "object":
		return serve("", "object", os.Getenv("MOULT_STATE"), "object")
	}
	return fmt.Errorf("no part %q", part)
}

// serve answers on the socket that it was given, or at addr, once it has reported to dir: it
// listens before that, since the agent may look for that when the first check has passed.
func serve(addr, answer, dir, part string) error {
	var l net.Listener
	var err error
	if os.Getenv("LISTEN_FDS") != "" {
		l, err = net.FileListener(os.NewFile(3, "socket"))
	} else {
		l, err = net.Listen("tcp", addr)
	}
	if err == nil {
		err = report(dir, part)
	}
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
}

// report tries everything, and writes into dir what came out.
func report(dir, part string) error {
	data, err := dataFolder(dir)
	if err != nil {
		return err
	}
	var lines []string
	for _, one := range attempts(data) {
		outcome := "done"
		if err := one.try(); err != nil {
			outcome = "refused: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		lines = append(lines, one.what+": "+outcome)
	}
	for _, name := range []string{"HOME", "USER", "LOGNAME", "MOULT_SOCKET"} {
		lines = append(lines, name+"="+os.Getenv(name))
	}
	lines = append(lines, within())
	tmp := filepath.Join(dir, fmt.Sprintf(".%s-%d", part, os.Getpid()))
	if err := os.WriteFile(tmp, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "report-"+part))
}

// within says what this process is held to.
func within() string {
	var files syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	umask := syscall.Umask(0)
	syscall.Umask(umask)
	score, _ := os.ReadFile("/proc/self/oom_score_adj")
	return fmt.Sprintf("nofile %d umask %03o oom_score %s %v", files.Max, umask, strings.TrimSpace(string(score)), err)
}

// dataFolder is the agent's, above the folder that a program may write to.
func dataFolder(dir string) (string, error) {
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if name := filepath.Base(d); name == "state" || name == "objects" {
			return filepath.Dir(d), nil
		}
	}
	return "", fmt.Errorf("%s is in no data folder", dir)
}

type attempt struct {
	what string
	try  func() error
}

func attempts(data string) (all []attempt) {
	add := func(what string, try func() error) { all = append(all, attempt{what, try}) }
	for _, file := range []string{"identity.pem", "floor.json", "process.json", "agent.hcl", "log/node.log", "../trust/gossip.key", "../trust/keys/operator.pem"} {
		add("read "+file, func() error {
			_, err := os.ReadFile(filepath.Join(data, file))
			return err
		})
	}
	for _, dir := range []string{".", "db", "state"} {
		add("list "+dir, func() error {
			_, err := os.ReadDir(filepath.Join(data, dir))
			return err
		})
	}
	own, err := os.Executable()
	// Who cannot make "x" cannot put another file in the place of process.json either.
	for _, file := range []string{"x", "state/x", "objects/x", "artifacts/x", "db/x", "floor.json", "process.json", "identity.pem", "log/node.log", "../x"} {
		add("write "+file, func() error { return touch(filepath.Join(data, file)) })
	}
	add("change its own program's folder", func() error {
		if err != nil {
			return err
		}
		return touch(filepath.Join(filepath.Dir(own), "x"))
	})
	add("call the control socket", func() error { return command(filepath.Join(data, "moult.sock")) })
	add("signal the agent", func() error { return syscall.Kill(agent(), 0) })
	add("read the agent's environment", func() error {
		_, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", agent()))
		return err
	})
	add("open the agent's memory", func() error {
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", agent()), os.O_RDWR, 0)
		if err == nil {
			err = f.Close()
		}
		return err
	})
	add("mount", func() error {
		runtime.LockOSThread() // never unlocked: it ends with its mounts
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			return err
		}
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			return err
		}
		return syscall.Mount("tmpfs", "/mnt", "tmpfs", 0, "")
	})
	add("become root by a set-user-ID program", func() error {
		out, err := exec.Command(os.Getenv("WALL_GAIN"), "whoami").Output()
		if err == nil && string(out) != "0" {
			err = fmt.Errorf("it runs as %s", out)
		}
		return err
	})
	add("become root", func() error { return syscall.Setuid(0) })
	add("have capabilities", capabilities)
	return all
}

// command asks the agent for its status, which takes no more than any command.
func command(socket string) error {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := c.Get("http://moult/v1/status")
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op != "dial" || errors.Is(err, io.EOF) {
		return nil // it was let in, and the agent has just been killed
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusForbidden:
		return fmt.Errorf("permission denied by the agent: %s", resp.Status)
	}
	return fmt.Errorf("the agent answers %s", resp.Status)
}

// agent is the process that began this one's, as the test says.
func agent() int {
	var pid int
	data, _ := os.ReadFile(os.Getenv("WALL_AGENT"))
	_, _ = fmt.Sscan(string(data), &pid)
	if pid <= 0 {
		pid = 1 << 30 // nobody, so that what is tried would fail by another error
	}
	return pid
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// capabilities fails where this process has none and can gain none.
func capabilities() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			if strings.Trim(value, "0") != "" {
				return nil
			}
		case "NoNewPrivs":
			if value != "1" {
				return nil
			}
		case "Groups":
			if strings.Contains(" "+value+" ", " 0 ") {
				return nil
			}
		}
	}
	return fmt.Errorf("operation not permitted: none is left")
}

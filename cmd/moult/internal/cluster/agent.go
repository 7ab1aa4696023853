package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"moult/agent"
	"moult/agent/control"
	"moult/agent/operator"
	"moult/agent/process"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
	"moult/store/durable"
)

// Agent is one agent of a cluster, running or not, and the node that it looks
// after. Its configuration and log lie in its data folder.
type Agent struct {
	Name string
	Data string
	// API calls the agent; nil before its first start, as Ended is.
	API *control.Client
	// Ended is closed when the process has ended; each start has its own.
	Ended chan struct{}
	// Prepare, if there is one, changes each start.
	Prepare func(*exec.Cmd) error

	port int // the first of portsEach
	cmd  *exec.Cmd
	log  *os.File
}

// versions is how many versions of a service have addresses of their own at one time.
const versions = 9

// Ports of one agent, from its first.
const (
	ringPort = iota
	publicPort
	versionsPort // the first of the versioned addresses
	portsEach    = versionsPort + versions
)

func (a *Agent) addr(offset int) string { return fmt.Sprintf("127.0.0.1:%d", a.port+offset) }

// Ring is the agent's address in the ring.
func (a *Agent) Ring() string { return a.addr(ringPort) }

// Public is the public address of the node's service.
func (a *Agent) Public() string { return a.addr(publicPort) }

// Versioned is the address of the node's service for callers of a version.
func (a *Agent) Versioned(version int) string { return a.addr(versionsPort + (version-1)%versions) }

// ConfigPath is where the agent's configuration is.
func (a *Agent) ConfigPath() string { return filepath.Join(a.Data, "agent.hcl") }

// LogPath is where the agent logs, as JSON.
func (a *Agent) LogPath() string { return filepath.Join(a.Data, "agent.log") }

// Configure makes the data folder and writes the configuration.
func (a *Agent) Configure(config string) error {
	if err := os.MkdirAll(a.Data, 0o700); err != nil {
		return err
	}
	return os.WriteFile(a.ConfigPath(), []byte(config), 0o600)
}

// Start starts the agent, or starts it again: exe is moult, and env is added to
// this process's environment.
func (a *Agent) Start(exe string, env ...string) (err error) {
	if a.log, err = os.OpenFile(a.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	a.cmd = exec.Command(exe, "agent", "--config", a.ConfigPath(), "--log-json")
	a.cmd.Env = append(os.Environ(), env...)
	a.cmd.Stderr = a.log
	a.cmd.SysProcAttr = ownGroup()
	if a.Prepare != nil {
		err = a.Prepare(a.cmd)
	}
	if err == nil {
		err = a.cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start agent %s: %w", a.Name, err)
	}
	a.Ended = make(chan struct{})
	go func() {
		defer close(a.Ended)
		_ = a.cmd.Wait() // how it ended stands in its log
	}()
	a.API = control.NewClient(filepath.Join(a.Data, control.SocketName))
	return nil
}

// Alive reports an agent that has ended, with the end of its log.
func (a *Agent) Alive() error {
	select {
	case <-a.Ended:
	default:
		return nil
	}
	data, err := os.ReadFile(a.LogPath())
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return fmt.Errorf("agent %s has ended: %s", a.Name, lines[len(lines)-1])
}

// Inject signs the first order of a bundle's release with the trust folder
// trustDir and hands both over, as a publisher who is also the operator does.
func (a *Agent) Inject(ctx context.Context, trustDir, path string) error {
	folder, err := trust.OpenFolder(trustDir, time.Now())
	if err != nil {
		return err
	}
	defer folder.Close()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := archive.Open(f, fi.Size(), folder.FirstRoot(), nil)
	if err != nil {
		return err
	}
	signed, _, err := operator.New(folder).Begin(ctx, a.API, b, b.Head().Agent != nil)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = a.API.Inject(ctx, f, signed)
	return err
}

// Turn has the newest release taken back, or with undo gone forward to again.
func (a *Agent) Turn(ctx context.Context, trustDir string, undo bool) error {
	folder, err := trust.OpenFolder(trustDir, time.Now())
	if err != nil {
		return err
	}
	defer folder.Close()
	_, _, err = operator.New(folder).Revert(ctx, a.API, operator.Reversal{Undo: undo})
	return err
}

// End tells the agent to end, and returns when it has. Its node goes on.
func (a *Agent) End() error {
	if err := a.signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-a.Ended
	return nil
}

// Kill ends the agent as a crash would, and returns when it has ended. Its node
// goes on.
func (a *Agent) Kill() error {
	if err := a.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-a.Ended
	return nil
}

// PID is the process ID of the agent as it was started; 0 before that.
func (a *Agent) PID() int {
	if a.cmd == nil {
		return 0
	}
	return a.cmd.Process.Pid
}

func (a *Agent) started() bool { return a.Ended != nil }

// signal tells the process; one that has ended already is as it should be.
func (a *Agent) signal(s os.Signal) error {
	if err := a.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end agent %s: %w", a.Name, err)
	}
	return nil
}

// collect waits for an agent that was told to end, and ends its node.
func (a *Agent) collect() error {
	<-a.Ended
	a.API.Close()
	return errors.Join(a.StopNode(), a.log.Close())
}

// pollInterval is the time between two looks at a status.
const pollInterval = 50 * time.Millisecond

// Await asks the agent for its status until good says yes, and returns the last one.
// It fails when the agent ends, or ctx.
func (a *Agent) Await(ctx context.Context, what string, good func(control.Status) bool) (control.Status, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last control.Status
	for {
		s, asked := a.API.Status(ctx, false)
		if asked == nil {
			last = s
			if good(s) {
				return s, nil
			}
		}
		select {
		case <-a.Ended:
			return last, fmt.Errorf("wait for %s: %w", what, a.Alive())
		case <-ctx.Done():
			return last, fmt.Errorf("wait for %s at agent %s: not seen: %w", what, a.Name, errors.Join(ctx.Err(), asked))
		case <-tick.C:
		}
	}
}

// StopNode ends the node's software, as its agent has recorded it: an agent
// that ends, in whatever way, leaves it running.
func (a *Agent) StopNode() error {
	data, err := durable.ReadFile(filepath.Join(a.Data, agent.ProcessFile), 16<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the node of %s: %w", a.Name, err)
	}
	var record struct {
		Handle process.Handle `json:"handle"`
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return fmt.Errorf("end the node of %s: %w", a.Name, err)
	}
	if record.Handle.PID == 0 {
		return nil
	}
	p, err := process.Adopt(record.Handle, process.Spec{})
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the node of %s: %w", a.Name, err)
	}
	_, err = p.Stop(context.Background(), 5*time.Second)
	return err
}

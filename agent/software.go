package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"moult/agent/process"
	"moult/store/bundle"
	"moult/store/durable"
)

const processFile = "process.json"

// software starts, adopts, watches and stops the node software. It works
// beside the loop: at most one of its methods but keep and release runs at a
// time, since the machine has one action under way at a time.
type software struct {
	a    *Agent
	path string

	mu     sync.Mutex
	record processRecord
	proc   *process.Process // nil: not running, or not known to run
	keeper *keeper
}

// processRecord is what the next agent must know to take the software over. It
// is a file of its own, so that it survives the loss of the database.
type processRecord struct {
	Version  bundle.Version    `json:"version"`
	Handle   process.Handle    `json:"handle"`
	Backends map[string]string `json:"backends"`
	// Egress is the address of the proxy that the software was given: the next
	// agent must answer there.
	Egress string `json:"egress"`
}

// plan is all that is needed to start one version of the software.
type plan struct {
	version  bundle.Version
	dir      string
	command  []string
	services []string
	health   bundle.Health
	artifact bundle.Digest // zero for adopted software
}

// keeper keeps the software up until it is released.
type keeper struct {
	version bundle.Version
	cancel  context.CancelFunc
	done    chan struct{}
}

func newSoftware(a *Agent) *software {
	s := &software{a: a, path: filepath.Join(a.cfg.Data, processFile)}
	data, err := readFile(s.path, maxProcessFile)
	if err == nil {
		err = json.Unmarshal(data, &s.record)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("record of the running software not read", "err", err)
	}
	return s
}

// egress returns the address on which the egress proxy must listen: the one
// that the running software knows, if there is one.
func (s *software) egress() string {
	if s.record.Egress != "" {
		return s.record.Egress
	}
	return "127.0.0.1:0"
}

// plan says how version v is started. It is called beside the loop.
func (s *software) plan(v bundle.Version) (p plan, err error) {
	a := s.a
	if !a.ask(func() {
		if m := a.docs.manifests[v]; m != nil {
			cu, known := m.Classes[a.cfg.Class]
			if known {
				p, err = s.planOf(v, cu)
				return
			}
		}
		if ad := a.cfg.Adopt; ad != nil && ad.Version == v {
			p = plan{version: v, command: ad.Command, health: ad.Health, services: slices.Sorted(maps.Keys(ad.Services))}
			return
		}
		err = fmt.Errorf("how to start version %d is not known here: neither a release nor an adopt block says it", v)
	}) {
		err = context.Canceled
	}
	return p, err
}

func (s *software) planOf(v bundle.Version, cu bundle.ClassUpgrade) (plan, error) {
	p := plan{version: v, command: cu.Command, health: cu.Health, services: slices.Sorted(maps.Keys(cu.Services))}
	art, ok := cu.Artifact(s.a.platform)
	if !ok {
		return p, fmt.Errorf("release %d has no software for %s", v, s.a.platform)
	}
	p.artifact = art.Digest
	return p, nil
}

// ensure returns the running process of version v: the one at hand, the one
// that an earlier agent started, or a new one. Anything else that runs for
// this node is stopped first.
func (s *software) ensure(ctx context.Context, v bundle.Version) (*process.Process, error) {
	p, err := s.plan(v)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if proc := s.take(p); proc != nil {
		return proc, nil
	}
	if err := s.stopLocked(ctx, p.health.DrainTimeout); err != nil {
		return nil, err
	}
	return s.startLocked(ctx, p)
}

// take returns the process that already runs version p.version, if one does.
func (s *software) take(p plan) *process.Process {
	if s.proc != nil && ended(s.proc) {
		s.proc = nil
	}
	if s.record.Version != p.version || s.record.Handle.PID == 0 {
		return nil
	}
	if s.proc != nil {
		return s.proc
	}
	proc, err := process.Adopt(s.record.Handle, s.spec(p, s.record.Backends))
	if err != nil {
		if !errors.Is(err, process.ErrGone) {
			s.a.log.Warn("running software not taken over", "pid", s.record.Handle.PID, "err", err)
		}
		return nil
	}
	s.a.log.Info("took over the running software", "pid", s.record.Handle.PID, "version", p.version)
	s.proc = proc
	return proc
}

func ended(p *process.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// startLocked starts the software on free ports of the loopback interface.
func (s *software) startLocked(ctx context.Context, p plan) (*process.Process, error) {
	if !p.artifact.IsZero() {
		dir, err := s.a.depot.Ensure(ctx, p.artifact) // no byte runs that was not hashed
		if err != nil {
			return nil, fmt.Errorf("the software of release %d: %w", p.version, err)
		}
		p.dir = dir
	}
	backends := map[string]string{}
	for _, name := range p.services {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		backends[name] = addr
	}
	spec := s.spec(p, backends)
	spec.OnStart = func(h process.Handle) error {
		return s.save(processRecord{Version: p.version, Handle: h, Backends: backends, Egress: s.a.layer.EgressURL().Host})
	}
	proc, err := process.Start(spec)
	if err != nil {
		return nil, fmt.Errorf("start version %d: %w", p.version, err)
	}
	s.a.log.Info("started the software", "version", p.version, "pid", proc.Handle().PID)
	s.proc = proc
	return proc, nil
}

func (s *software) save(r processRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.path, data, 0o600); err != nil {
		return fmt.Errorf("record the running software: %w", err)
	}
	s.record = r
	return nil
}

// spec fills in what the release leaves open.
func (s *software) spec(p plan, backends map[string]string) process.Spec {
	slot := s.a.slots.Path(p.version)
	replace := []string{"${state}", slot}
	for name, addr := range backends {
		replace = append(replace, "${service."+name+"}", addr)
	}
	r := strings.NewReplacer(replace...)
	expand := func(argv []string) []string {
		out := make([]string, len(argv))
		for i, arg := range argv {
			out[i] = r.Replace(arg)
		}
		return out
	}
	health := p.health
	health.Exec = expand(health.Exec)
	return process.Spec{
		Dir: p.dir, Argv: expand(p.command), Env: s.environment(), Marker: s.a.id.String(),
		LogPath: filepath.Join(s.a.cfg.Data, "log", "node.log"), Health: health, HealthAddr: backends[health.Service],
		NotifySocket: filepath.Join(s.a.cfg.Data, "notify.sock"), Log: s.a.log,
	}
}

// environment is the software's: the agent's own, less what is the agent's
// business, with the proxy that labels its calls, and what the operator set.
func (s *software) environment() []string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok && !strings.HasPrefix(k, "MOULT_") {
			env[k] = v
		}
	}
	proxy := s.a.layer.EgressURL().String()
	for _, k := range []string{"HTTP_PROXY", "http_proxy"} {
		env[k] = proxy
	}
	maps.Copy(env, s.a.cfg.Env)
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// keep keeps version v up from now on: adopts or starts it, and starts it
// again, with growing pauses, when it ends. The loop calls it.
func (s *software) keep(v bundle.Version) {
	if s.keeper != nil && s.keeper.version == v {
		return
	}
	before := s.release()
	ctx, cancel := s.a.untilStopped()
	k := &keeper{version: v, cancel: cancel, done: make(chan struct{})}
	s.keeper = k
	s.a.spawn(func() {
		defer close(k.done)
		defer cancel()
		<-before
		process.Supervisor{
			Start: func(ctx context.Context) (process.Software, error) {
				p, err := s.ensure(ctx, v)
				if err != nil {
					return nil, err // a nil *Process must not become a Software
				}
				return p, nil
			},
			Observe: func(e process.Event) { s.observe(v, e) },
		}.Run(ctx)
	})
}

// release ends keeping; the software itself goes on. The channel is closed
// when the keeper has let go. The loop calls it.
func (s *software) release() <-chan struct{} {
	if s.keeper == nil {
		done := make(chan struct{})
		close(done)
		return done
	}
	k := s.keeper
	s.keeper = nil
	k.cancel()
	return k.done
}

// observe tells the loop what the supervisor sees.
func (s *software) observe(v bundle.Version, e process.Event) {
	switch e := e.(type) {
	case process.Ready:
		s.open(v)
		return
	case process.NotReady:
		s.a.log.Error("the software is not ready", "version", v, "err", e.Err)
	case process.NotStarted:
		s.a.log.Error("the software cannot be started", "version", v, "err", e.Err)
	case process.Ended:
		s.a.log.Error("the software has ended by itself", "version", v, "exit", e.Exit.String())
	case process.Restarting:
		s.a.log.Info("the software is started again", "version", v, "in", e.In)
		return
	default:
		return
	}
	s.a.post(func() {
		if s.a.live.version == v {
			s.a.live.ready = false
		}
	})
}

// pid returns the process ID of the software; 0 where none runs.
func (s *software) pid() int {
	if !s.mu.TryLock() {
		return 0 // it is being started or stopped
	}
	defer s.mu.Unlock()
	if s.proc == nil || ended(s.proc) {
		return 0
	}
	return s.record.Handle.PID
}

// close lets go of the software, which goes on. It is for an agent that ends.
func (s *software) close() error {
	<-s.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return s.proc.Close()
}

// open tells the loop where the software answers.
func (s *software) open(v bundle.Version) {
	s.mu.Lock()
	backends := maps.Clone(s.record.Backends)
	s.mu.Unlock()
	s.a.post(func() {
		s.a.live.version, s.a.live.backends, s.a.live.ready = v, backends, true
		s.a.route()
	})
}

// launch starts (or adopts) version v and waits until it is ready.
func (s *software) launch(ctx context.Context, v bundle.Version) error {
	proc, err := s.ensure(ctx, v)
	if err != nil {
		return err
	}
	if err := proc.AwaitReady(ctx); err != nil {
		return s.explain(v, proc, err)
	}
	s.open(v)
	return nil
}

// probe watches version v for its minimum healthy time.
func (s *software) probe(ctx context.Context, v bundle.Version) error {
	p, err := s.plan(v)
	if err != nil {
		return err
	}
	proc, err := s.ensure(ctx, v)
	if err != nil {
		return err
	}
	if err := proc.AwaitHealthy(ctx, time.Duration(p.health.MinHealthyTime)); err != nil {
		return s.explain(v, proc, err)
	}
	return nil
}

// explain adds the end of the software's output to what went wrong.
func (s *software) explain(v bundle.Version, proc *process.Process, err error) error {
	if tail := strings.TrimSpace(proc.LogTail(3)); tail != "" {
		return fmt.Errorf("version %d: %w; its last output: %s", v, err, tail)
	}
	return fmt.Errorf("version %d: %w", v, err)
}

// drain lets the calls in flight end, holds new ones, and stops whatever
// software runs for this node.
func (s *software) drain(ctx context.Context) error {
	var released <-chan struct{}
	if !s.a.ask(func() {
		released = s.release()
		s.a.live.ready, s.a.live.admitted = false, false
	}) {
		return context.Canceled
	}
	<-released
	timeout := s.a.drainTimeout()
	drainCtx, cancel := context.WithTimeout(ctx, timeout)
	left, err := s.a.layer.Drain(drainCtx)
	cancel()
	if err != nil && ctx.Err() == nil {
		s.a.log.Warn("calls were still in flight at the drain timeout", "calls", left, "timeout", timeout)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopLocked(ctx, bundle.Duration(timeout))
}

// stopLocked stops the software, also where only its record is known.
func (s *software) stopLocked(ctx context.Context, drain bundle.Duration) error {
	if s.proc == nil && s.record.Handle.PID != 0 {
		proc, err := process.Adopt(s.record.Handle, process.Spec{Log: s.a.log, Marker: s.a.id.String()})
		if err != nil && !errors.Is(err, process.ErrGone) {
			return fmt.Errorf("stop the software with process ID %d: %w", s.record.Handle.PID, err)
		}
		s.proc = proc
	}
	if s.proc == nil {
		return nil
	}
	exit, err := s.proc.Stop(ctx, time.Duration(drain))
	if err != nil {
		return fmt.Errorf("stop the software: %w", err)
	}
	s.a.log.Info("stopped the software", "version", s.record.Version, "exit", exit.String())
	s.proc = nil
	return s.save(processRecord{Egress: s.record.Egress})
}

// freeAddr returns an address of the loopback interface that is free now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port for the software: %w", err)
	}
	addr := l.Addr().String()
	return addr, l.Close()
}

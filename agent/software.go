package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"moult/agent/process"
	"moult/simlayer"
	"moult/simlayer/attach"
	"moult/simlayer/connect"
	"moult/store/bundle"
	"moult/store/durable"
)

// ProcessFile is the file of the data folder that names the running software:
// JSON with the field "handle", a process.Handle.
const ProcessFile = "process.json"

// software starts, adopts, watches and stops the node software. It works
// beside the loop: at most one of its methods but keep and release runs at a
// time, since the machine has one action under way at a time.
type software struct {
	a    *Agent
	path string

	mu     sync.Mutex
	record processRecord
	proc   *process.Process // nil: not running, or not known to run
	keeper *keeper          // the loop's own
	binder *connect.Binder  // mu; nil before there is need of it

	// speaks is the version that labels the software's calls to its peers: that
	// of the software that runs, or that ran last. The loop's own.
	speaks bundle.Version
}

// processRecord is what the next agent must know to take the software over. It
// is a file of its own, so that it survives the loss of the database.
type processRecord struct {
	Version  bundle.Version    `json:"version"`
	Handle   process.Handle    `json:"handle"`
	Backends map[string]string `json:"backends"`
	// Inherited are the listening sockets that it was given.
	Inherited []simlayer.Inherited `json:"inherited,omitempty"`
	// Egress is the address of the proxy that the software was given: the next
	// agent must answer there.
	Egress string `json:"egress"`
	// Plan is how the software was started. The next agent may have lost the
	// manifest that says it.
	Plan plan `json:"plan"`
}

func newSoftware(a *Agent) *software {
	s := &software{a: a, path: filepath.Join(a.cfg.Data, ProcessFile)}
	data, err := durable.ReadFile(s.path, maxProcessFile)
	if err == nil {
		err = json.Unmarshal(data, &s.record)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("record of the running software not read", "err", err)
		s.record = processRecord{}
	}
	if s.record.Handle.PID != 0 {
		s.speaks = s.record.Version
	}
	return s
}

// anyLoopback is an address with a free port, for software of this machine.
const anyLoopback = "127.0.0.1:0"

// startLayer starts the simulation layer with its egress proxy where the running
// software was told that it is. Is that address taken, it comes up all the same.
func (s *software) startLayer(cfg simlayer.Config) (*simlayer.Layer, error) {
	cfg.Egress = s.egress()
	if cfg.Processes = s.runs(); len(cfg.Processes) > 0 {
		cfg.Inherited = s.record.Inherited
	}
	layer, err := simlayer.Start(cfg)
	if !errors.Is(err, simlayer.ErrEgress) || cfg.Egress == anyLoopback {
		return layer, err
	}
	s.a.alarm("another program has %s, the proxy address that the running software (process %d) was given: its calls to peers fail until it is started anew, with another address: %v",
		cfg.Egress, s.record.Handle.PID, err)
	cfg.Egress = anyLoopback
	return simlayer.Start(cfg)
}

// egress returns the address on which the egress proxy must listen: the one
// that the running software knows, if any runs. It is "" where nobody needs one.
func (s *software) egress() string {
	if s.record.Egress != "" && len(s.runs()) > 0 {
		return s.record.Egress
	}
	if s.a.ways.egress.kind != EgressProxy {
		return ""
	}
	return anyLoopback
}

// runs returns the processes of software that an earlier agent has started, and
// which may still run.
func (s *software) runs() []int {
	if s.record.Handle.PID == 0 {
		return nil
	}
	proc, err := process.Adopt(s.record.Handle, process.Spec{Log: s.a.log})
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err == nil {
		_ = proc.Close() // it was only looked at
	}
	return s.family(s.record.Handle.PID)
}

// family returns the processes among which the software's sockets are.
func (s *software) family(pid int) []int {
	pids, err := attach.Family(pid)
	if err != nil {
		return []int{pid}
	}
	return pids
}

// proxy is the address of the egress proxy; "" without one.
func (s *software) proxy() string {
	if u := s.a.layer.EgressURL(); u != nil {
		return u.Host
	}
	return ""
}

// ensure returns the running process of version v, and how it was started: the
// one at hand, the one that an earlier agent started, or a new one. Anything else
// that runs for this node is stopped first.
func (s *software) ensure(ctx context.Context, v bundle.Version) (*process.Process, plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if proc, err := s.take(v); proc != nil || err != nil {
		return proc, s.record.Plan, err
	}
	p, err := s.plan(v)
	if err != nil {
		return nil, p, err
	}
	drain := s.record.Plan.Health.DrainTimeout
	if drain == 0 {
		drain = p.Health.DrainTimeout
	}
	if err := s.stopLocked(ctx, drain); err != nil {
		return nil, p, err
	}
	proc, err := s.startLocked(ctx, p)
	return proc, p, err
}

// take returns the process that already runs version v; nil if none does. It
// needs nothing but the record: software that runs is not ended because the
// agent has lost what it was told of it.
func (s *software) take(v bundle.Version) (*process.Process, error) {
	if s.proc != nil && ended(s.proc) {
		s.proc = nil
	}
	if s.record.Version != v || s.record.Handle.PID == 0 {
		return nil, nil
	}
	if s.proc != nil {
		return s.proc, nil
	}
	if s.record.Plan.Version != v { // an older moult wrote the record
		p, err := s.plan(v)
		if err != nil {
			return nil, err
		}
		s.record.Plan = p
	}
	proc, err := process.Adopt(s.record.Handle, s.spec(s.record.Plan, s.record.Backends))
	if errors.Is(err, process.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over the running software of version %d; it goes on, unwatched, until that succeeds: %w", v, err)
	}
	s.a.log.Info("took over the running software", "pid", s.record.Handle.PID, "version", v)
	s.bind(s.record) // it may do so again
	if c := s.a.ways.connect; c != nil {
		if err := c.Add(s.record.Handle.PID); err != nil {
			s.a.log.Error("the running software's calls are not labelled with its version until it is started anew", "err", err)
		}
	}
	s.proc = proc
	return proc, nil
}

func ended(p *process.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// startLocked starts the software on free ports of the loopback interface, or on
// sockets that it inherits.
func (s *software) startLocked(ctx context.Context, p plan) (*process.Process, error) {
	if !p.Artifact.IsZero() {
		dir, err := s.a.depot.Ensure(ctx, p.Artifact) // no byte runs that was not hashed
		if err != nil {
			return nil, fmt.Errorf("the software of release %d: %w", p.Version, err)
		}
		p.Dir = dir
	}
	// Its first call may leave before it is ready.
	if !s.a.ask(func() {
		s.speaks = p.Version
		s.a.route()
		s.a.redirect()
	}) {
		return nil, errStopped
	}
	sockets, err := s.a.layer.Sockets(p.Version)
	if err != nil {
		return nil, err
	}
	defer closeSockets(sockets)
	backends, err := s.places(p, sockets)
	if err != nil {
		return nil, err
	}
	spec := s.spec(p, backends)
	record := processRecord{Version: p.Version, Backends: backends, Egress: s.proxy(), Plan: p}
	for _, one := range sockets {
		if one.Node != nil {
			spec.Sockets = append(spec.Sockets, process.Socket{Name: one.Service, File: one.Node})
		}
		spec.Held = append(spec.Held, one.Hold)
		record.Inherited = append(record.Inherited, one.Inherited)
	}
	spec.Cgroup = s.bind(record)
	if c := s.a.ways.connect; c != nil {
		spec.Cgroup = c.Cgroup() // the same
	}
	spec.OnStart = func(h process.Handle) error {
		record.Handle = h
		return s.save(record)
	}
	proc, err := process.Start(spec)
	if err != nil {
		return nil, fmt.Errorf("start version %d: %w", p.Version, err)
	}
	s.a.log.Info("started the software", "version", p.Version, "pid", proc.Handle().PID)
	s.proc = proc
	return proc, nil
}

// places says where the software is to listen: at the sockets that it inherits,
// and else at free ports.
func (s *software) places(p plan, sockets []simlayer.Socket) (map[string]string, error) {
	backends := map[string]string{}
	for _, one := range sockets {
		if one.Node != nil {
			backends[one.Service] = one.Addr
		}
	}
	for _, name := range p.Services {
		if backends[name] != "" {
			continue
		}
		addr, err := privateAddr(p.Protocols[name], s.a.cfg.Services[name].Address)
		if err != nil {
			return nil, err
		}
		backends[name] = addr
	}
	return backends, nil
}

func closeSockets(sockets []simlayer.Socket) {
	for _, s := range sockets {
		_ = s.Close() // the software has its own
	}
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
	var errs []error
	if s.binder != nil {
		errs = append(errs, s.binder.Close())
	}
	if s.proc != nil {
		errs = append(errs, s.proc.Close())
	}
	return errors.Join(errs...)
}

// open tells the loop where the software answers.
func (s *software) open(v bundle.Version) {
	s.mu.Lock()
	backends := s.a.layer.Found(v, s.record.Backends)
	processes := s.family(s.record.Handle.PID)
	s.mu.Unlock()
	s.a.post(func() {
		s.a.live.version, s.a.live.backends, s.a.live.processes, s.a.live.ready = v, backends, processes, true
		s.a.route()
	})
}

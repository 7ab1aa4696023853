package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"moult/agent/control"
	"moult/agent/objects"
	"moult/agent/schedule"
	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/agent/ways"
	"moult/gossip"
	"moult/gossip/swarm"
	"moult/gossip/view"
	"moult/simlayer"
	"moult/simlayer/host"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Agent looks after one node.
type Agent struct {
	folder
	cfg      Config
	log      *slog.Logger
	platform bundle.Platform
	fail     failpoints

	layer *simlayer.Layer
	ring  *gossip.Gossip
	fetch *swarm.Fetcher
	soft  *software.Software
	ways  *ways.Ways

	directory atomic.Pointer[directory] // who answers where, for the egress proxy

	inbox   chan func()
	stopped chan struct{}  // closed when the loop has ended
	work    sync.WaitGroup // what runs beside the loop
	quit    func()         // ends Run

	// Everything below is the loop's own.

	machine   *upgrade.Machine
	saved     upgrade.State   // what is durable: all that others are told
	unsaved   []upgrade.Event // what happened while the journal could not be written
	broken    error           // the journal cannot be written: nothing is done any more
	view      *view.View
	dirty     map[bundle.NodeID]bool // records of the view to be written to the store
	trust     *trust.Verified
	evidence  evidence
	docs      documents
	objects   *objects.Objects
	viewNews  bool            // the directory is older than the view
	wait      schedule.Reason // why the node is waiting, as last decided
	notBefore time.Time       // no decision before this
	preflight bool            // the check before going down is under way
	synced    bool
	alone     bool            // no peer is configured or remembered
	known     map[string]bool // addresses already remembered
	alive     map[bundle.NodeID]bool
	left      bool // the agent is leaving the ring
	injecting int  // injections under way
	started   time.Time
	doneAt    map[doneKey]time.Time // when this agent first saw a node done
	live      liveSoftware
	speaks    bundle.Version   // what labels the node's calls to its peers: the version that runs, or ran last
	routed    simlayer.Routing // as last applied
	serving   serving          // what the routing is made of
	answering answering
	heard     map[bundle.Version]heard
	watched   map[bundle.Version]bool // versions whose callers are listened to
	pastSwept bool                    // the disk of retired objects has been given back
	retireAt  time.Time               // when to look for what can be retired
	progress  float64
	own       view.Record // as last published
	seq       uint64
	alarms    []string
	cancel    context.CancelFunc // ends the action under way
	running   <-chan struct{}    // closed when that action has returned
	trouble   string             // why the action under way does not get on
	changed   int                // objects of the last transform
}

// doneKey names a node's settlement for a release.
type doneKey struct {
	node    bundle.NodeID
	release bundle.Version
}

// liveSoftware is what callers may reach.
type liveSoftware struct {
	version   bundle.Version
	backends  map[string]string // service to the address where the software listens
	processes []int             // of the software
	ready     bool
	admitted  bool
}

// Run looks after the node until ctx ends or the agent is told to leave. The
// node's software goes on when Run has returned.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	closers := &closers{}
	f, err := openFolder(cfg, log, closers)
	if err != nil {
		return errors.Join(err, closers.close())
	}
	a := newAgent(f, cfg, log, quit)
	if err = a.open(closers); err == nil {
		err = a.loop(ctx)
	} else {
		close(a.stopped)
	}
	quit()
	a.work.Wait() // before the data folder is let go
	return errors.Join(err, closers.close())
}

func newAgent(f folder, cfg Config, log *slog.Logger, quit func()) *Agent {
	a := &Agent{
		folder: f, cfg: cfg, log: log, quit: quit,
		platform: bundle.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH},
		fail:     loadFailpoints(),
		inbox:    make(chan func(), inboxSize),
		stopped:  make(chan struct{}),
		trust:    f.genesis,
		view:     view.New(),
		dirty:    map[bundle.NodeID]bool{},
		doneAt:   map[doneKey]time.Time{},
		known:    map[string]bool{},
		started:  time.Now(),
	}
	a.objects = objects.New(a.objectsConfig())
	return a
}

// closers ends what was opened, the last first.
type closers struct{ fs []func() error }

func (c *closers) add(f func() error) { c.fs = append(c.fs, f) }

func (c *closers) close() error {
	var errs []error
	for i := len(c.fs) - 1; i >= 0; i-- {
		errs = append(errs, c.fs[i]())
	}
	return errors.Join(errs...)
}

// open brings up everything below the loop but the data folder, in the order of
// dependence.
func (a *Agent) open(c *closers) error {
	if err := a.restore(); err != nil {
		return err
	}
	if err := a.openLayer(c); err != nil {
		return err
	}
	if err := a.openRing(c); err != nil {
		return err
	}
	return a.openControl(c)
}

// openLayer binds the node's public addresses.
func (a *Agent) openLayer(c *closers) error {
	if err := a.chooseWays(c); err != nil {
		return err
	}
	// Whatever is left of objects may write to state that a transform reads. One that
	// does not end although killed does not write either: the node has its agent.
	if err := host.EndLeftovers(a.objectsDir()); err != nil {
		a.alarm("%v", err)
	}
	left := software.Find(a.cfg.Data, a.log)
	a.speaks = left.Version()
	services := map[string]simlayer.Service{}
	for name, s := range a.cfg.Services {
		services[name] = simlayer.Service{
			Public: s.Address, Host: hostOf(s.Address), First: s.First, Last: s.Last,
			Protocol: a.protocolOf(name), External: s.External, Attach: a.ways.Attach[name].Attach(),
		}
	}
	a.list(a.view.Snapshot())
	var err error
	a.layer, err = a.startLayer(simlayer.Config{Services: services, Resolve: a.resolve, Log: a.log}, left)
	if err != nil {
		return err
	}
	c.add(a.layer.Close)
	if err := a.steerTo(a.layer, c); err != nil {
		return err
	}
	c.add(a.objects.Close)
	a.soft = a.lookAfter(left)
	c.add(a.soft.Close)
	return nil
}

func (a *Agent) openControl(c *closers) error {
	l, err := control.ListenUnix(filepath.Join(a.cfg.Data, control.SocketName))
	if err != nil {
		return err
	}
	c.add(control.Serve(l, api{a}, a.log).Close)
	if a.cfg.API == "" {
		return nil
	}
	token := ""
	if a.cfg.APIToken != "" {
		if token, err = control.ReadToken(a.cfg.APIToken); err != nil {
			return err
		}
	}
	tcp, err := listenTCP(a.cfg.API)
	if err != nil {
		return fmt.Errorf("control API on %s: %w", a.cfg.API, err)
	}
	c.add(control.ServeToken(tcp, api{a}, token, a.log).Close)
	return nil
}

// loop runs the closures of the inbox, one after the other, until ctx ends or
// the journal cannot be written.
func (a *Agent) loop(ctx context.Context) error {
	defer close(a.stopped)
	defer func() {
		if a.cancel != nil {
			a.cancel()
		}
		a.persistView()
	}()
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	persist := time.NewTicker(persistInterval)
	defer persist.Stop()
	a.log.Info("agent is up", "name", a.cfg.Name, "id", a.id.Short(), "cluster", a.cluster.Short(), "pid", os.Getpid())
	a.begin()
	for a.broken == nil {
		select {
		case <-ctx.Done():
			return nil
		case f := <-a.inbox:
			f()
			a.emptyInbox()
		case <-tick.C:
			a.goOn()
			a.noteMembers()
			a.fetchDocuments()
			a.retire(time.Now())
		case <-persist.C:
			a.persistView()
		}
		a.decide()
	}
	return fmt.Errorf("the journal cannot be written, so the agent ends; its node goes on: %w", a.broken)
}

// emptyInbox runs what waits, so that one decision serves for all of it.
func (a *Agent) emptyInbox() {
	for range len(a.inbox) {
		if a.broken != nil {
			return
		}
		(<-a.inbox)()
	}
}

// post hands f to the loop; it is lost when the loop has ended. It must not be
// called from the loop.
func (a *Agent) post(f func()) {
	select {
	case a.inbox <- f:
	case <-a.stopped:
	}
}

// ask runs f in the loop and waits for it. It reports false when the loop has ended.
func (a *Agent) ask(f func()) bool {
	done := make(chan struct{})
	a.post(func() {
		defer close(done)
		f()
	})
	select {
	case <-done:
		return true
	case <-a.stopped:
		return false
	}
}

// spawn runs f beside the loop.
func (a *Agent) spawn(f func()) {
	a.work.Add(1)
	go func() {
		defer a.work.Done()
		f()
	}()
}

// alarm keeps a message that status shows until the agent restarts.
func (a *Agent) alarm(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, have := range a.alarms {
		if have == text {
			return
		}
	}
	a.log.Error("alarm", "text", text)
	a.alarms = append(a.alarms, text)
	if len(a.alarms) > maxAlarms {
		a.alarms = a.alarms[len(a.alarms)-maxAlarms:]
	}
}

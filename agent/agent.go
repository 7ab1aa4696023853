package agent

import (
	"context"
	"crypto/ed25519"
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
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip"
	"moult/gossip/swarm"
	"moult/gossip/view"
	"moult/simlayer"
	"moult/simlayer/host"
	"moult/simlayer/so"
	"moult/store"
	"moult/store/artifact"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/store/durable"
	"moult/transforms"
)

// Agent looks after one node.
type Agent struct {
	cfg       Config
	log       *slog.Logger
	key       ed25519.PrivateKey
	id        bundle.NodeID
	firstRoot []byte
	cluster   bundle.Digest
	platform  bundle.Platform
	fail      failpoints

	store *store.Store
	depot *artifact.Depot
	slots *transforms.Slots
	layer *simlayer.Layer
	ring  *gossip.Gossip
	fetch *swarm.Fetcher
	soft  *software
	ways  ways

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
	rules     map[bundle.Digest]*so.Rules // parsed; nil where they do not parse
	objects   objectHost
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
	a := &Agent{
		cfg: cfg, log: log, quit: quit,
		platform: bundle.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH},
		fail:     loadFailpoints(),
		inbox:    make(chan func(), inboxSize),
		stopped:  make(chan struct{}),
		view:     view.New(),
		dirty:    map[bundle.NodeID]bool{},
		doneAt:   map[doneKey]time.Time{},
		known:    map[string]bool{},
		rules:    map[bundle.Digest]*so.Rules{},
		objects:  newObjectHost(),
		started:  time.Now(),
	}
	closers := &closers{}
	err := a.open(ctx, closers)
	if err == nil {
		err = a.loop(ctx)
	} else {
		close(a.stopped)
	}
	quit()
	a.work.Wait() // before the data folder is let go
	return errors.Join(err, closers.close())
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

// open brings up everything below the loop, in the order of dependence.
func (a *Agent) open(ctx context.Context, c *closers) error {
	if err := a.openData(c); err != nil {
		return err
	}
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

// openData opens the data folder: identity, store, artifacts, slots.
func (a *Agent) openData(c *closers) error {
	var err error
	if a.firstRoot, err = durable.ReadFile(a.cfg.Root, maxRootFile); err != nil {
		return fmt.Errorf("read the cluster's first root: %w; `moult trust init` makes it", err)
	}
	genesis, err := trust.Genesis(a.firstRoot)
	if err != nil {
		return fmt.Errorf("read the cluster's first root %s: %w", a.cfg.Root, err)
	}
	a.trust, a.cluster = genesis, genesis.Cluster()
	if a.store, err = store.Open(a.cfg.Data, store.Options{Log: a.log}); err != nil {
		return err
	}
	c.add(a.store.Close)
	if f := a.store.Floor(); !f.Cluster.IsZero() && f.Cluster != a.cluster {
		return fmt.Errorf("data folder %s belongs to cluster %s, and %s is the root of cluster %s: give the agent another data folder or the other root",
			a.cfg.Data, f.Cluster.Short(), a.cfg.Root, a.cluster.Short())
	}
	if err := a.store.Raise(func(f *store.Floor) { f.Cluster = a.cluster }); err != nil {
		return err
	}
	if a.key, err = loadIdentity(a.cfg.Data); err != nil {
		return err
	}
	a.id = bundle.NodeIDOf(a.key.Public().(ed25519.PublicKey))
	if a.depot, err = artifact.Open(filepath.Join(a.cfg.Data, "artifacts"), artifact.Options{Log: a.log, CheckSpace: transforms.CheckSpace}); err != nil {
		return err
	}
	if a.slots, err = transforms.OpenSlots(filepath.Join(a.cfg.Data, "state")); err != nil {
		return err
	}
	return nil
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
	a.soft = newSoftware(a)
	services := map[string]simlayer.Service{}
	for name, s := range a.cfg.Services {
		services[name] = simlayer.Service{
			Public: s.Address, Host: hostOf(s.Address), First: s.First, Last: s.Last,
			Protocol: a.protocolOf(name), External: s.External, Attach: a.ways.attach[name].attachKind(),
		}
	}
	a.list(a.view.Snapshot())
	var err error
	a.layer, err = a.soft.startLayer(simlayer.Config{Services: services, Resolve: a.resolve, Log: a.log})
	if err != nil {
		return err
	}
	c.add(a.layer.Close)
	if err := a.openSteer(c); err != nil {
		return err
	}
	c.add(a.closeObjects)
	c.add(a.soft.close)
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
	tcp, err := listenTCP(a.cfg.API)
	if err != nil {
		return fmt.Errorf("control API on %s: %w", a.cfg.API, err)
	}
	c.add(control.Serve(tcp, api{a}, a.log).Close)
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

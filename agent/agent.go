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

	"moult/agent/config"
	"moult/agent/control"
	"moult/agent/membership"
	"moult/agent/node"
	"moult/agent/objects"
	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/agent/ways"
	"moult/gossip"
	"moult/gossip/swarm"
	"moult/simlayer"
	"moult/simlayer/host"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Agent looks after one node.
type Agent struct {
	folder
	cfg      config.Config
	log      *slog.Logger
	platform bundle.Platform
	fail     failpoints

	layer *simlayer.Layer
	ring  *gossip.Gossip
	fetch *swarm.Fetcher
	soft  *software.Software
	ways  *ways.Ways

	directory atomic.Pointer[node.Directory] // who answers where, for the egress proxy

	inbox   chan func()
	stopped chan struct{}  // closed when the loop has ended
	work    sync.WaitGroup // what runs beside the loop
	quit    func()         // ends Run

	// Everything below is the loop's own.

	node      *node.Node
	saved     upgrade.State                     // the machine's, as last made durable
	broken    error                             // the journal cannot be written: nothing is done any more
	dirty     map[bundle.NodeID]bool            // records of the view to be written to the store
	trust     *trust.Verified                   // in force
	sets      map[bundle.Digest]*trust.Verified // those that the node knows of
	unkept    bool                              // the evidence of a conflict is not stored
	objects   *objects.Objects
	enrolled  *membership.Membership // by which names belong to nodes
	alone     bool                   // no peer is configured or remembered
	known     map[string]bool        // addresses already remembered
	injecting int                    // injections under way
	live      liveSoftware
	answers   node.Route       // whom the node answers
	routed    simlayer.Routing // as last applied
	serving   serving
	pastSwept bool               // the disk of retired objects has been given back
	countAt   time.Time          // when to count callers again
	lookAt    time.Time          // when to look at documents again
	cancel    context.CancelFunc // ends the action under way
	running   <-chan struct{}    // closed when that action has returned
	changed   int                // objects of the last transform

	copyMeasured <-chan struct{} // closed when it has been; nil: no copy is ahead

	noRecords, noSets, noSave gossip.Quiet // for what peers send, and for what repeats: a flood
}

// liveSoftware is what callers may reach.
type liveSoftware struct {
	backends  map[string]string // service to the address where the software listens
	processes []int             // of the software
}

// Run looks after the node until ctx ends or the agent is told to leave. The
// node's software goes on when Run has returned.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger) error {
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

func newAgent(f folder, cfg config.Config, log *slog.Logger, quit func()) *Agent {
	a := &Agent{
		folder: f, cfg: cfg, log: log, quit: quit,
		platform: bundle.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH},
		fail:     loadFailpoints(),
		inbox:    make(chan func(), inboxSize),
		stopped:  make(chan struct{}),
		trust:    f.genesis,
		sets:     map[bundle.Digest]*trust.Verified{f.genesis.Digest(): f.genesis},
		dirty:    map[bundle.NodeID]bool{},
		known:    map[string]bool{},
	}
	a.noRecords.Every, a.noSets.Every, a.noSave.Every = floodInterval, floodInterval, floodInterval
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
	if err := host.EndLeftovers(a.objectsDir(), a.account.Users()...); err != nil {
		a.alarm("%v", err)
	}
	left := software.Find(a.cfg.Data, a.log)
	if v := left.Version(); v != 0 {
		a.step(node.SoftwareStarts{Version: v})
	}
	a.answer(a.node.Route())
	services := map[string]simlayer.Service{}
	for name, s := range a.cfg.Services {
		services[name] = simlayer.Service{
			Public: s.Address, Host: s.Host(), First: s.First, Last: s.Last,
			Protocol: a.answers.Protocols[name], External: s.External, Attach: a.ways.Attach[name].Attach(),
		}
	}
	a.guide(a.node.Directory()) // before the first call can leave
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
	synced := a.ring.Synced()
	if a.alone {
		a.step(node.Synced{}) // there is nobody to ask
	}
	a.watchDisk()
	a.route()
	a.noteAddresses() // before the first record
	a.measureCopy(a.saved)
	a.settle()
	for a.broken == nil {
		select {
		case <-ctx.Done():
			return nil
		case f := <-a.inbox:
			f()
			a.emptyInbox()
		case <-synced:
			synced = nil
			a.step(node.Synced{})
		case <-tick.C:
			a.step(node.Tick{})
			a.noteMembers()
			a.countCallers(time.Now())
		case <-persist.C:
			a.watchDisk()
			a.keepEvidence()
			a.persistView()
			a.lookAgain(time.Now())
		}
		a.settle()
	}
	return fmt.Errorf("the journal cannot be written, so the agent ends; its node goes on: %w", a.broken)
}

// lookAgain looks, now and then, whether the disk still has the documents that it had, and
// has those fetched that it has not: this agent has read them, its next one has to.
func (a *Agent) lookAgain(now time.Time) {
	if now.After(a.lookAt) {
		a.lookAt = now.Add(lookInterval)
		a.step(node.LookAgain{})
	}
}

// watchDisk says that the disk is full before anything has to be written, that the state
// is gone before anything is to start on it, and that they are there again.
func (a *Agent) watchDisk() {
	text := ""
	if err := a.store.WatchSpace(); err != nil {
		text = fmt.Sprintf("nothing is written down, so nothing new begins, until the disk takes it: %v", err)
	}
	a.alarmOf(causeDisk, text)
	a.alarmOf(causeState, a.lacksState(a.saved.Running))
}

// Causes of alarms.
const causeDisk, causeState = "disk", "state"

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

// alarm has status show a message until the agent restarts.
func (a *Agent) alarm(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	a.alarmOf(text, text)
}

// alarmOf has status show what is wrong with something, until it is called for that
// again; without a text nothing is.
func (a *Agent) alarmOf(cause, text string) { a.step(node.Alarm{Cause: cause, Text: text}) }

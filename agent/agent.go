package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
	"moult/agent/config"
	"moult/agent/control"
	"moult/agent/fdstore"
	"moult/agent/home"
	"moult/agent/membership"
	"moult/agent/metrics"
	"moult/agent/node"
	"moult/agent/notify"
	"moult/agent/objects"
	"moult/agent/rehearse"
	"moult/agent/selfupdate"
	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/agent/ways"
	"moult/gossip"
	"moult/gossip/swarm"
	"moult/simlayer"
	"moult/simlayer/host"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/transforms"
)

// Agent looks after one node. Nothing of it changes once it runs, but for what is made for
// that: everybody may read it.
type Agent struct {
	*home.Home
	cfg      config.Config
	log      *slog.Logger
	platform bundle.Platform
	fail     failpoints
	builds   *selfupdate.Folder // of the agent itself

	sockets *fdstore.Store // of the layer

	layer *simlayer.Layer
	ring  *gossip.Gossip
	fetch *swarm.Fetcher
	serve *swarm.Server
	soft  *software.Software
	ways  *ways.Ways

	bounds bounds.Kinds // what the node's programs are held to
	unheld error        // and cannot be, here

	directory atomic.Pointer[node.Directory] // who answers where, for the egress proxy
	changed   atomic.Int64                   // objects of the last transform

	inbox   chan message
	stopped chan struct{}  // closed when the loop has ended
	work    sync.WaitGroup // what runs beside the loop
	quit    func()         // ends Run
}

// loop is what the agent knows and has decided: one goroutine's, and nobody else has it.
type loop struct {
	*Agent

	node      *node.Node
	saved     upgrade.State                     // the machine's, as last made durable
	broken    error                             // the journal cannot be written: nothing is done any more
	dirty     map[bundle.NodeID]bool            // records of the view to be written to the store
	trust     *trust.Verified                   // in force
	sets      map[bundle.Digest]*trust.Verified // those that the node knows of
	unkept    bool                              // the evidence of a conflict is not stored
	objects   *objects.Objects
	signed    []control.HistorySigned     // that the metadata in force bring, until that is durable
	sighted   []home.Sighting             // phases of other nodes, to be written to the store
	since     map[bundle.NodeID]time.Time // of the phase of each that was seen last
	enrolled  *membership.Membership      // by which names belong to nodes
	known     map[string]bool             // addresses already remembered
	injecting int                         // injections under way
	live      liveSoftware
	sampling  sampling
	sampled   <-chan struct{}  // closed when who was asking for facts last has returned
	answering node.Route       // whom the node answers
	routed    simlayer.Routing // as last applied
	serving   serving
	pastSwept bool               // the disk of retired objects has been given back
	countAt   time.Time          // when to count callers again
	lookAt    time.Time          // when to look at documents again
	events    *notify.Notifier   // told what happens; nil: nobody is
	eventsAt  time.Time          // when to look for events again
	cancel    context.CancelFunc // ends the action under way
	running   <-chan struct{}    // closed when that action has returned
	demanded  demand             // the rehearsal of a bundle that somebody asked for last
	upSince   time.Time          // when the loop began to turn
	regaining *regaining         // what the node has signed; nil: it is known
	regained  bool               // it is, and that is not durable yet
	parted    bool               // it is durable that the node is apart from another of its key
	switching *selfupdate.Switch // to another build of the agent; nil: it goes on

	copyMeasured <-chan struct{} // closed when it has been; nil: no copy is ahead

	noRecords, noSets, noSave gossip.Quiet // for what peers send, and for what repeats: a flood
}

// liveSoftware is what callers may reach.
type liveSoftware struct {
	version   bundle.Version
	backends  map[string]string // service to the address where the software listens
	processes []int             // of the software
}

// Run looks after the node until ctx ends or the agent is told to leave. The
// node's software goes on when Run has returned. The sockets at which callers are relayed
// are those that the agent before has left, as far as there are any; where somebody keeps
// them for the next one, the calls that are on are carried out first.
// Where it returns a *[selfupdate.Switch], all is closed but those sockets, and another build is
// to be tried in its place. builds is the folder of those.
func Run(ctx context.Context, cfg config.Config, builds *selfupdate.Folder, sockets *fdstore.Store, log *slog.Logger) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	h, err := home.Open(cfg, log)
	if err != nil {
		return err
	}
	closers := &closers{}
	closers.add(h.Close)
	l := newLoop(h, cfg, builds, sockets, log, quit)
	if err = l.open(closers); err == nil {
		err = l.run(ctx)
		l.leaveCallers()
	} else {
		close(l.stopped)
	}
	quit()
	l.work.Wait() // before the data folder is let go
	err = errors.Join(err, closers.close())
	if l.switching == nil {
		return err
	}
	if err != nil {
		return errors.Join(err, builds.Withdraw())
	}
	return l.switching
}

func newLoop(h *home.Home, cfg config.Config, builds *selfupdate.Folder, sockets *fdstore.Store, log *slog.Logger, quit func()) *loop {
	l := &loop{
		Agent: &Agent{
			Home: h, cfg: cfg, sockets: sockets, log: log, quit: quit, builds: builds,
			platform: bundle.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH},
			fail:     failpoints(os.Getenv(failpointVar)),
			inbox:    make(chan message, inboxSize),
			stopped:  make(chan struct{}),
		},
		dirty: map[bundle.NodeID]bool{}, since: map[bundle.NodeID]time.Time{},
		known: map[string]bool{},
	}
	l.noRecords.Every, l.noSets.Every, l.noSave.Every = floodInterval, floodInterval, floodInterval
	l.bounds, l.unheld = cfg.Bounds.Kinds(ways.KernelName(h.ID))
	l.objects = objects.New(l.objectsConfig())
	return l
}

// leaveCallers has those who call through the agent wait for the next one, if one follows.
func (l *loop) leaveCallers() {
	a := l.Agent
	if !a.sockets.Managed() && l.switching == nil && !a.builds.State().OnTrial {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	a.layer.Leave(ctx)
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
func (l *loop) open(c *closers) error {
	if err := l.restore(); err != nil {
		return err
	}
	if err := l.openLayer(c); err != nil {
		return err
	}
	if err := l.openRing(c); err != nil {
		return err
	}
	if err := l.openControl(c); err != nil {
		return err
	}
	l.openEvents(c)
	return l.openMetrics(c)
}

// openLayer binds the node's public addresses.
func (l *loop) openLayer(c *closers) error {
	c.add(l.bounds.Remove) // those in which nothing runs when all else has ended
	if err := l.chooseWays(c); err != nil {
		return err
	}
	// Whatever is left of objects may write to state that a transform reads. One that
	// does not end although killed does not write either: the node has its agent.
	if err := host.EndLeftovers(l.objectsDir(), l.Users()...); err != nil {
		l.alarm("%v", err)
	}
	if err := errors.Join(rehearse.Sweep(l.Rehearsals(), l.Users()...), transforms.RemoveTree(l.DemandedFolder()), transforms.RemoveTree(l.BackupFolder())); err != nil {
		l.alarm("%v", err)
	}
	left := software.Find(l.cfg.Data, l.log)
	if v := left.Version(); v != 0 {
		l.step(node.SoftwareStarts{Version: v})
	}
	l.takeRoute(l.node.Route())
	services := map[string]simlayer.Service{}
	for name, s := range l.cfg.Services {
		services[name] = simlayer.Service{
			Public: s.Address, Host: s.Host(), First: s.First, Last: s.Last,
			Protocol: l.answering.Protocols[name], External: s.External, Attach: l.ways.Attach[name].Attach(),
		}
	}
	l.takeDirectory(l.node.Directory()) // before the first call can leave
	var err error
	l.layer, err = l.startLayer(simlayer.Config{Services: services, Resolve: l.resolve, Sockets: l.sockets, Log: l.log}, left)
	if err != nil {
		return err
	}
	c.add(l.layer.Close)
	if err := l.steerTo(l.layer, c); err != nil {
		return err
	}
	c.add(l.objects.Close)
	l.soft = l.lookAfter(left)
	c.add(l.soft.Close)
	return nil
}

func (a *Agent) openControl(c *closers) error {
	l, err := control.ListenUnix(filepath.Join(a.cfg.Data, control.SocketName))
	if err != nil {
		return err
	}
	c.add(control.ServeNoted(l, api{a}, "", a.Audit, a.log).Close)
	if a.cfg.API == "" {
		return nil
	}
	token := ""
	if a.cfg.APIToken != "" {
		if token, err = control.ReadToken(a.cfg.APIToken); err != nil {
			return err
		}
	}
	tcp, err := net.Listen("tcp", a.cfg.API)
	if err != nil {
		return fmt.Errorf("control API on %s: %w", a.cfg.API, err)
	}
	c.add(control.ServeNoted(tcp, api{a}, token, a.Audit, a.log).Close)
	return nil
}

func (a *Agent) openMetrics(c *closers) error {
	if a.cfg.Metrics == "" {
		return nil
	}
	tcp, err := net.Listen("tcp", a.cfg.Metrics)
	if err != nil {
		return fmt.Errorf("metrics on %s: %w", a.cfg.Metrics, err)
	}
	c.add(metrics.Serve(tcp, a.snapshot, a.log).Close)
	return nil
}

// run handles what is told and asked, one after the other, until ctx ends or the journal
// cannot be written.
func (l *loop) run(ctx context.Context) error {
	defer close(l.stopped)
	defer func() {
		if l.cancel != nil {
			l.cancel()
		}
		l.demanded.give(errStopped)
		l.persistView()
		l.keepSighted(maxSighted)
	}()
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	persist := time.NewTicker(persistInterval)
	defer persist.Stop()
	l.log.Info("agent is up", "name", l.cfg.Name, "id", l.ID.Short(), "cluster", l.Cluster.Short(), "pid", os.Getpid())
	manager := newManager(l.log)
	defer manager.close()
	synced := l.ring.Synced()
	if peers, err := l.Peers(); err == nil && len(peers)+len(l.cfg.Join) == 0 {
		l.synced() // there is nobody to ask
	}
	l.watchDisk()
	l.watchSecrets()
	l.watchSandbox()
	l.upSince = time.Now()
	if l.builds.State().OnTrial {
		l.step(node.AgentTrial{})
	}
	l.watchBuilds()
	l.step(l.knownAgent(bundle.Digest{}, nil)) // before the first record
	l.route()
	l.noteAddresses() // before the first record
	l.measureCopy(l.saved)
	l.proceed()
	for l.broken == nil {
		if manager != nil {
			manager.alive(time.Now(), l.line())
		}
		select {
		case <-ctx.Done():
			return nil
		case m := <-l.inbox:
			l.handle(m)
			l.emptyInbox()
		case <-synced:
			synced = nil
			l.synced()
		case <-tick.C:
			l.step(node.Tick{})
			l.regain()
			l.noteMembers()
			l.countCallers(time.Now())
			l.observe(time.Now())
		case <-persist.C:
			l.watchDisk()
			l.watchSecrets()
			l.watchBuilds()
			l.alarmOf(causeRefused, l.ring.Report().Refused)
			l.keepEvidence()
			l.persistView()
			l.lookAgain(time.Now())
		}
		l.proceed()
	}
	return fmt.Errorf("the journal cannot be written, so the agent ends; its node goes on: %w", l.broken)
}

// lookAgain looks, now and then, whether the disk still has the documents that it had, and
// has those fetched that it has not: this agent has read them, its next one has to.
func (l *loop) lookAgain(now time.Time) {
	if now.After(l.lookAt) {
		l.lookAt = now.Add(lookInterval)
		l.step(node.LookAgain{})
	}
}

// watchDisk says that the disk is full before anything has to be written, that the state
// is gone before anything is to start on it, and that they are there again.
func (l *loop) watchDisk() {
	text := ""
	if err := l.Store.WatchSpace(); err != nil {
		text = fmt.Sprintf("the disk takes no writes, and nothing new begins until it does: %v", err)
	}
	l.alarmOf(causeDisk, text)
	l.alarmOf(causeState, l.LacksState(l.saved.Running))
}

// watchSecrets says who else may read the node's secrets. The agent goes on: what serves is
// not ended over a mode, which the operator may not be able to change on a mount.
func (l *loop) watchSecrets() {
	for _, file := range home.Secrets(l.cfg) {
		l.alarmOf(causeSecret+file, l.Account.OpenTo(file))
	}
}

// watchSandbox says what holds the node's programs less than it should here, where there is
// no other user to hold them.
func (l *loop) watchSandbox() {
	if !l.Account.Others() {
		l.alarmOf(causeSandbox, sandbox.Lacks())
	}
	if l.unheld != nil {
		l.alarmOf(causeBounds, strings.ReplaceAll(l.unheld.Error(), "\n", "; "))
	}
}

// Causes of alarms.
const causeDisk, causeState, causeSecret, causeSandbox, causeBounds, causeRefused = "disk", "state", "secret ", "sandbox", "bounds", "refused"

// emptyInbox handles what waits, so that one decision serves for all of it.
func (l *loop) emptyInbox() {
	for range len(l.inbox) {
		if l.broken != nil {
			return
		}
		l.handle(<-l.inbox)
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

// alarm is what status is to show until the agent restarts.
func alarm(format string, args ...any) node.Alarm {
	text := fmt.Sprintf(format, args...)
	return node.Alarm{Cause: text, Text: text}
}

// alarm has status show a message until the agent restarts.
func (l *loop) alarm(format string, args ...any) { l.step(alarm(format, args...)) }

// alarmOf has status show what is wrong with something, until it is called for that
// again; without a text nothing is.
func (l *loop) alarmOf(cause, text string) { l.step(node.Alarm{Cause: cause, Text: text}) }

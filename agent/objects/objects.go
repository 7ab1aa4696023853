package objects

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"moult/simlayer"
	"moult/simlayer/host"
	"moult/store/bundle"
)

// Config says what objects are made of. All fields must be set.
type Config struct {
	Platform bundle.Platform
	Env      []string // of exec objects
	Depot    Depot
	States   States
	Memory   Memory

	// Start starts the host of processes, when one is first needed.
	Start func() (Host, error)
	// Get finds what a wasm or exec object runs from, verified: its module, or the
	// folder of its program. It may fetch. It is called beside the owner.
	Get func(context.Context, Object) (path string, err error)
	// Go runs a function beside the owner; the context ends when the owner does.
	Go func(func(context.Context))
	// Tell brings an event to the owner, in whose goroutine Take is called with it.
	Tell func(Event)
	// Alarm says what is wrong. It is called in the owner's goroutine, by the methods.
	Alarm func(text string)

	Log *slog.Logger
}

// Depot has the files of releases.
type Depot interface {
	Has(artifact bundle.Digest) bool
	HasBlob(bundle.Digest) bool
	Blob(bundle.Digest) (data []byte, ok bool, err error)
	BlobPath(bundle.Digest) string
}

// States makes the folders of objects' state.
type States interface {
	Past(release bundle.Version) (dir string, err error)
	Future(release bundle.Version) (dir string, err error)
	// Hand makes one of them the folder of a program, or of an object in moult's own
	// process.
	Hand(dir string, program bool) error
}

// Memory keeps one value durably.
type Memory interface {
	Load() (data []byte, ok bool, err error)
	Save([]byte) error
}

// Host runs objects in processes; *host.Host is one.
type Host interface {
	Set(context.Context, host.Objects) (ended <-chan struct{}, err error)
	Addrs(callers bundle.Version) map[string]string
	Stats() []host.Stats
	Close() error
}

// Node is the state of the node that the objects belong to.
type Node struct {
	Native   bundle.Version    // its software's
	Settled  bundle.Version    // what it has settled at
	Backends map[string]string // service to the address where the software listens
	Up       bool              // callers may reach the software
	Down     bool              // it is being upgraded: a transform may read objects' state
	Back     bool              // a release is taken back: that of past objects, else of future ones
	Hold     time.Duration     // how long a call may wait
}

// Objects are the simulation objects of one node.
type Objects struct {
	cfg     Config
	library library
	change  change
	host    Host          // nil until one is needed
	done    chan struct{} // closed when the change under way has ended

	all  map[bundle.Version]Object // by the version of their callers
	node Node                      // as last arranged, and how it is now:
	// callNode: the node is what the objects call next. Otherwise such calls wait.
	callNode bool
	placed   placement
	again    time.Time // what was not here is not looked for before
	moved    time.Time // when the node came, went, or became another

	observed map[bundle.Version]observing // by release, since this agent began

	led led
}

// led is to which objects callers are led, and what that was worked out from beside
// the placement.
type led struct {
	to       map[bundle.Version]simlayer.Object // nil: not yet
	up       bool
	revision int
}

// New has no objects yet, and runs nothing.
func New(cfg Config) *Objects {
	return &Objects{cfg: cfg, library: newLibrary(), observed: map[bundle.Version]observing{}}
}

// Close ends what runs. Nobody is led to it any more.
func (o *Objects) Close() error {
	if o.host == nil {
		return nil
	}
	return o.host.Close()
}

// Offer says which objects there are now, by the version of their callers.
func (o *Objects) Offer(all map[bundle.Version]Object) {
	o.all = all
	o.library.keep(o.Files())
	o.again = time.Time{}
	o.placed.whole = false
}

// Files returns the artifacts and files that objects run from.
func (o *Objects) Files() map[bundle.Digest]bool {
	used := map[bundle.Digest]bool{}
	for _, one := range o.all {
		if file, has := one.file(); has {
			used[file] = true
		}
	}
	return used
}

// Arrange says what state the node is in now. What is to run is worked out anew where
// that has changed, or the objects have.
func (o *Objects) Arrange(n Node, now time.Time) {
	if n.Up {
		o.callNode = true
	} else if !n.Down {
		o.callNode = false // it has ended by itself
	}
	if !o.callNode {
		n.Backends = nil
	}
	moved := n.Native != o.node.Native || !maps.Equal(n.Backends, o.node.Backends)
	same := !moved && n.Hold == o.node.Hold && o.mustEnd(n) == o.placed.ended
	o.node = n
	if same && (o.placed.whole || now.Before(o.again)) {
		return
	}
	if moved {
		o.moved = now
	}
	o.place()
	o.again = now.Add(placePause)
	o.led.to = nil
	o.change.want(o.placed.hosted(n), now)
}

// mustEnd reports whether objects whose state a transform reads must have ended.
func (o *Objects) mustEnd(n Node) bool { return n.Down && !o.callNode }

// Part tells the objects that the calls at the node have ended, and the software is
// about to: what they call from then on waits.
func (o *Objects) Part() { o.callNode = false }

// CallNode reports whether the node is what the objects call next.
func (o *Objects) CallNode() bool { return o.callNode }

// Holds reports whether callers wait for the objects, of a node that is up: because
// these do not go by its software yet, or because what one runs from is being checked,
// and its callers would be refused. open says that callers are let in now. Nobody waits
// for longer than a call may wait for the node.
func (o *Objects) Holds(open bool, now time.Time) bool {
	soon := !open && o.placed.soon && now.Sub(o.moved) <= o.node.Hold
	return soon || o.change.behind(open, now)
}

// Lead works out to which objects callers are led: those in this process, and
// those in others that are in force. Callers of a version whose object is not are
// not answered; while the node is down, they wait with all others.
func (o *Objects) Lead(up bool) map[bundle.Version]simlayer.Object {
	if o.led.to != nil && o.led.up == up && o.led.revision == o.change.revision {
		return o.led.to
	}
	to := map[bundle.Version]simlayer.Object{}
	for _, newer := range []bool{false, true} {
		for _, v := range outward(o.placed.processes, o.node.Native, newer) {
			one := simlayer.Object{Local: o.placed.local[v], Observe: o.placed.observing[v].path, Told: o.placed.observing[v].told}
			if one.Local == nil && o.change.answers(v) {
				one.Addrs = o.host.Addrs(v)
			}
			if one.Local == nil && one.Addrs == nil {
				if up {
					break
				}
				one.Addrs = map[string]string{}
			}
			to[v] = one
		}
	}
	o.led = led{to: to, up: up, revision: o.change.revision}
	return to
}

// Follow begins to make the processes what is wanted. While a change is under way
// the next one waits for its end. It is for when no caller is led any more to what is
// not wanted.
func (o *Objects) Follow(now time.Time) {
	if !o.change.mayBegin(now) {
		return
	}
	if o.host == nil {
		h, err := o.cfg.Start()
		if err != nil {
			o.refused(err, now)
			return
		}
		o.host = h
	}
	h, set := o.host, o.change.begin()
	o.done = make(chan struct{})
	o.cfg.Go(func(ctx context.Context) {
		ended, err := h.Set(ctx, set)
		if ctx.Err() != nil {
			return // the owner ends
		}
		o.cfg.Tell(hasFollowed{err})
		if err != nil {
			return
		}
		select {
		case <-ended:
			o.cfg.Tell(hasEnded{})
		case <-ctx.Done():
		}
	})
}

func (o *Objects) refused(err error, now time.Time) {
	o.change.refuse(err, now)
	o.cfg.Alarm(fmt.Sprintf("simulation objects cannot be run: %v", err))
}

// Event is something that has happened beside the owner.
type Event interface{ event() }

type (
	hasFollowed struct{ err error } // calls go by a change, or nothing was changed
	hasEnded    struct{}            // what a change left over
	hasFound    struct {
		file bundle.Digest
		path string
	}
	// hasNotFound: it is not here, or not good, and is fetched; nobody else waits.
	hasNotFound struct{ file bundle.Digest }
)

func (hasFollowed) event() {}
func (hasEnded) event()    {}
func (hasFound) event()    {}
func (hasNotFound) event() {}

// Take takes in an event. The owner then arranges anew, and leads callers by that.
func (o *Objects) Take(e Event, now time.Time) {
	switch e := e.(type) {
	case hasFollowed:
		if e.err != nil {
			o.refused(e.err, now)
			close(o.done)
			return
		}
		o.change.follow()
	case hasEnded:
		o.change.end()
		close(o.done)
	case hasFound:
		o.library.found(e.file, e.path)
		o.placeAnew()
	case hasNotFound:
		if o.library.notFound(e.file) {
			o.placeAnew()
		}
	}
}

// placeAnew has the next Arrange work out anew where objects answer.
func (o *Objects) placeAnew() { o.placed.whole, o.again = false, time.Time{} }

// Following returns a channel that is closed when the change under way has ended; nil
// where the objects are as they are wanted, or an error where they cannot be.
func (o *Objects) Following() (<-chan struct{}, error) {
	if o.change.underWay() {
		return o.done, nil
	}
	return nil, o.change.obstacle()
}

// InForce is what calls to processes go by.
func (o *Objects) InForce() host.Objects { return o.change.inForce }

// Processes tells the state of each process.
func (o *Objects) Processes() []host.Stats {
	if o.host == nil {
		return nil
	}
	return o.host.Stats()
}

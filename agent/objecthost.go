package agent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/simlayer"
	"moult/simlayer/host"
	"moult/store/bundle"
)

// objectHost keeps the processes of those objects that do not run in the agent. A
// change of them takes its time: programs end, modules are compiled. So changes are
// made beside the loop, one at a time, and callers are let in only to what is in
// force. All of it is the loop's own.
//
// The order of things when the node goes down and comes up:
//
//	the gate closes                     the objects stay as they are, and next to the
//	                                    node, so that calls that are under way can end
//	these have ended, or were cut       objects with state that a transform reads end;
//	                                    what the others call waits (near is false)
//	the software ends; transforms       each transform waits for the objects' end
//	the new software is ready           the objects are told where it is, those of its
//	                                    release begin; then the gate opens
type objectHost struct {
	host *host.Host // nil until one is needed

	// wanted is what the loop asks for, since when it has had that software in it;
	// inForce is what calls go by. Equal pointers mean that nothing is to do.
	wanted, inForce *host.Objects
	since           time.Time
	// making is the change under way, nil where there is none; done is closed at
	// its end, when what is not wanted any more has ended. It is in force before that.
	making *host.Objects
	done   chan struct{}
	// err says why the last change failed; the next try is at retry.
	err   error
	pause time.Duration
	retry time.Time
	made  int // changes made; the routing may have more to lead to then

	// near: the node is what the objects call next. Otherwise such calls wait.
	near bool

	// files are where objects' programs and modules are, once they were verified;
	// seeking are those that are looked for: true until the first look has failed.
	files   map[bundle.Digest]string
	seeking map[bundle.Digest]bool

	observed map[bundle.Version]observing // by release, since this agent began
}

func newObjectHost() objectHost {
	none := &host.Objects{}
	return objectHost{
		files: map[bundle.Digest]string{}, seeking: map[bundle.Digest]bool{}, observed: map[bundle.Version]observing{},
		wanted: none, inForce: none,
	}
}

// mustEnd reports whether objects whose state a transform reads must have ended.
func (o *objectHost) mustEnd(s upgrade.State) bool { return s.Phase.Down() && !o.near }

// want says what is to run.
func (o *objectHost) want(set host.Objects, now time.Time) {
	if sameObjects(set, *o.wanted) {
		return
	}
	if !sameNode(set, *o.wanted) {
		o.since = now
	}
	o.wanted, o.err, o.pause, o.retry = &set, nil, 0, time.Time{}
	if o.making == nil && sameObjects(set, *o.inForce) {
		o.inForce = o.wanted
	}
}

func sameObjects(a, b host.Objects) bool {
	if len(a.List) == 0 && len(b.List) == 0 {
		return true // of nothing
	}
	return sameNode(a, b) && a.Hold == b.Hold && slices.EqualFunc(a.List, b.List, func(a, b host.Object) bool { return reflect.DeepEqual(a, b) })
}

func sameNode(a, b host.Objects) bool { return a.Native == b.Native && maps.Equal(a.Node, b.Node) }

// behind reports whether the objects do not go by the present software yet: until
// they do no call is let in, so that none finds nobody, or what was there before.
// open says that calls are let in now; then those that first objects would answer
// are no reason to hold others. Nor are calls held for longer than hold, which is
// when they would be refused: the software's own version is then served alone.
func (o *objectHost) behind(open bool, now time.Time, hold time.Duration) bool {
	if len(o.wanted.List) == 0 || o.err != nil || sameNode(*o.wanted, *o.inForce) || now.Sub(o.since) > hold {
		return false
	}
	return !open || len(o.inForce.List) > 0
}

// answers reports whether the object for callers of v, and all between it and the
// node, are in force as they are wanted.
func (o *objectHost) answers(v bundle.Version) bool {
	if !sameNode(*o.wanted, *o.inForce) {
		return false
	}
	for v != o.wanted.Native {
		want, asked := objectFor(v, o.wanted)
		have, set := objectFor(v, o.inForce)
		if !asked || !set || !reflect.DeepEqual(want, have) {
			return false
		}
		v = want.To
	}
	return true
}

func objectFor(v bundle.Version, set *host.Objects) (host.Object, bool) {
	i := slices.IndexFunc(set.List, func(o host.Object) bool { return o.Version == v })
	if i < 0 {
		return host.Object{}, false
	}
	return set.List[i], true
}

// following returns a channel that is closed when the change under way has ended,
// nil where the objects are as they are wanted, or an error where they cannot be.
func (o *objectHost) following() (<-chan struct{}, error) {
	switch {
	case o.making != nil:
		return o.done, nil
	case o.wanted == o.inForce:
		return nil, nil
	}
	return nil, cmp.Or(o.err, errNotBegun)
}

var errNotBegun = errors.New("callers are led to simulation objects that are to end")

// follow begins to make the processes what is wanted. While a change is under way
// the next one waits for its end. It is called once no caller is led any more to
// what is not wanted.
func (a *Agent) follow(now time.Time) {
	o := &a.objects
	if o.making != nil || o.wanted == o.inForce || now.Before(o.retry) {
		return
	}
	if err := a.startObjects(); err != nil {
		a.notFollowed(err, now)
		return
	}
	o.making, o.done = o.wanted, make(chan struct{})
	h, set := o.host, o.wanted
	ctx, cancel := a.untilStopped()
	a.spawn(func() {
		defer cancel()
		ended, err := h.Set(ctx, *set)
		if ctx.Err() != nil {
			return // the agent ends
		}
		a.post(func() { a.followed(set, err) })
		if err != nil {
			return
		}
		select {
		case <-ended:
			a.post(a.settled)
		case <-ctx.Done():
		}
	})
}

// followed notes that calls go by a change, or that nothing was changed.
func (a *Agent) followed(set *host.Objects, err error) {
	o := &a.objects
	if err != nil {
		a.notFollowed(err, time.Now())
		a.settled()
		return
	}
	o.inForce, o.err = set, nil
	o.made++
	a.route()
}

// settled notes that a change has ended.
func (a *Agent) settled() {
	o := &a.objects
	o.making = nil
	close(o.done)
	o.made++
	a.route()
}

func (a *Agent) notFollowed(err error, now time.Time) {
	o := &a.objects
	a.alarm("simulation objects cannot be run: %v", err)
	o.err, o.pause = err, min(max(2*o.pause, minPause), maxPause)
	o.retry = now.Add(o.pause)
}

// settleObjects waits until the objects are as the loop wants them: what is not
// wanted any more has ended. It is called beside the loop.
func (a *Agent) settleObjects(ctx context.Context) error {
	for {
		var done <-chan struct{}
		var err error
		if !a.ask(func() {
			a.route()
			done, err = a.objects.following()
		}) {
			return errStopped
		}
		if done == nil {
			return err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// partObjects tells the objects that the calls at the node have ended, and the
// software is about to. It is called beside the loop, and waits until they know: the
// calls that they get from then on wait.
func (a *Agent) partObjects(ctx context.Context) {
	if !a.ask(func() { a.objects.near = false }) {
		return
	}
	if err := a.settleObjects(ctx); err != nil && ctx.Err() == nil {
		a.log.Warn("simulation objects do not know that the node goes down", "err", err)
	}
}

// lead works out to which objects callers are led: those in this process, and
// those in others that are in force. Callers of a version whose object is not are
// not answered; while the node is down, they wait with all others.
func (a *Agent) lead(native bundle.Version, up bool) {
	from := led{up: up, made: a.objects.made}
	if a.serving.objects != nil && a.serving.led == from {
		return
	}
	p, objects := a.serving.placed, map[bundle.Version]simlayer.Object{}
	for _, newer := range []bool{false, true} {
		for _, v := range outward(p.processes, native, newer) {
			o := simlayer.Object{Local: p.local[v], Observe: p.observing[v].path, Told: p.observing[v].told}
			if o.Local == nil && a.objects.answers(v) {
				o.Addrs = a.objects.host.Addrs(v)
			}
			if o.Local == nil && o.Addrs == nil {
				if up {
					break
				}
				o.Addrs = map[string]string{}
			}
			objects[v] = o
		}
	}
	a.serving.objects, a.serving.led = objects, from
}

// objectsDir names the host of this node's objects.
func (a *Agent) objectsDir() string { return filepath.Join(a.cfg.Data, "run") }

// hostConfig is how objects are run, but for the services.
func (a *Agent) hostConfig() host.Config {
	return host.Config{Dir: a.objectsDir(), Env: software.PlainEnvironment(nil), Cache: filepath.Join(a.cfg.Data, "cache"), Log: a.log}
}

func (a *Agent) startObjects() error {
	if a.objects.host != nil {
		return nil
	}
	cfg := a.hostConfig()
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Services)) {
		cfg.Services = append(cfg.Services, host.Service{Name: name, Protocol: a.protocolOf(name)})
	}
	h, err := host.Start(cfg)
	if err != nil {
		return err
	}
	a.objects.host = h
	return nil
}

func (a *Agent) closeObjects() error {
	if a.objects.host == nil {
		return nil
	}
	return a.objects.host.Close()
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"moult/agent/objects"
	"moult/agent/software"
	"moult/simlayer/host"
	"moult/simlayer/so/wasm"
	"moult/store/bundle"
)

// objectsConfig says what this node's simulation objects are made of.
func (a *Agent) objectsConfig() objects.Config {
	return objects.Config{
		Platform: a.platform, Env: software.PlainEnvironment(a.account, a.cfg.Env), Depot: a.depot, States: a.slots.Objects(), Memory: observedBefore{a},
		Start: a.startHost, Get: a.getObject, Log: a.log,
		Go: func(f func(context.Context)) {
			ctx, cancel := a.untilStopped()
			a.spawn(func() {
				defer cancel()
				f(ctx)
			})
		},
		Tell: func(e objects.Event) {
			a.post(func() {
				a.objects.Take(e, time.Now())
				a.route()
			})
		},
		Alarm: func(text string) { a.alarm("%s", text) },
	}
}

// observedBefore keeps which objects were told of calls.
type observedBefore struct{ a *Agent }

const keyObserved = "observed"

func (o observedBefore) Load() ([]byte, bool, error) {
	return o.a.store.Get(bucketMachine, keyObserved)
}
func (o observedBefore) Save(data []byte) error {
	return o.a.store.Put(bucketMachine, keyObserved, data)
}

// getObject fetches, checks and unpacks what an object runs from. It is called beside
// the loop.
func (a *Agent) getObject(ctx context.Context, o objects.Object) (string, error) {
	if blob, ok := o.What.Blob(); ok {
		return a.depot.BlobPath(blob.Digest), a.fetchBlob(ctx, blob)
	}
	if err := a.fetchPath(ctx, []bundle.Version{o.Release}); err != nil {
		return "", err
	}
	return a.depot.Ensure(ctx, o.Program)
}

// objectsDir names the host of this node's objects.
func (a *Agent) objectsDir() string { return filepath.Join(a.cfg.Data, "run") }

// hostConfig is how objects are run, but for the services.
func (a *Agent) hostConfig() host.Config {
	return host.Config{Dir: a.objectsDir(), Account: a.account, Env: software.PlainEnvironment(nil, nil), Cache: filepath.Join(a.cfg.Data, "cache"), Log: a.log}
}

func (a *Agent) startHost() (objects.Host, error) {
	cfg := a.hostConfig()
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Services)) {
		cfg.Services = append(cfg.Services, host.Service{Name: name, Protocol: a.answers.Protocols[name]})
	}
	h, err := host.Start(cfg)
	if err != nil {
		return nil, err // a nil *Host must not become a Host
	}
	return h, nil
}

// errNotFollowed is no reason to go on: what is waited for has not happened.
var errNotFollowed = fmt.Errorf("simulation objects have not followed within %v", objectsTimeout)

// settleObjects waits until the objects are as the loop wants them: what is not
// wanted any more has ended. Where that takes long it says so, for the caller to say.
// It is called beside the loop.
func (a *Agent) settleObjects(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, objectsTimeout, errNotFollowed)
	defer cancel()
	for {
		var done <-chan struct{}
		var err error
		if !a.ask(func() {
			a.route()
			done, err = a.objects.Following()
		}) {
			return errStopped
		}
		if done == nil {
			return err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// partObjects tells the objects that the calls at the node have ended, and the
// software is about to. It is called beside the loop, and waits until they know: the
// calls that they get from then on wait. Objects that cannot run get none.
func (a *Agent) partObjects(ctx context.Context) error {
	if !a.ask(func() { a.objects.Part() }) {
		return errStopped
	}
	err := a.settleObjects(ctx)
	if errors.Is(err, errNotFollowed) {
		return err
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("simulation objects do not know that the node goes down", "err", err)
	}
	return nil
}

// compileAhead compiles the modules of the past objects that begin when the node has
// gone the path: callers are held meanwhile, who need not wait for that too. Where it
// fails they wait. It is called beside the loop.
func (a *Agent) compileAhead(ctx context.Context, path []bundle.Version) {
	var files []string
	a.ask(func() {
		for _, v := range path {
			if cu, err := a.classUpgrade(v); err == nil && cu.Past.Kind == bundle.SimulateWasm && len(a.cfg.Services) > 0 {
				files = append(files, a.depot.BlobPath(cu.Past.Wasm.Digest))
			}
		}
	})
	for _, file := range files {
		if err := host.Compile(ctx, a.hostConfig(), file); err != nil && ctx.Err() == nil {
			a.log.Warn("the module of a simulation object is not compiled ahead, so callers may have to wait for it", "err", err)
		}
	}
}

// futureState returns what the transform of a release reads of its future object's
// state, "" where there is none. The object has ended, perhaps by a crash. It is called
// beside the loop.
func (a *Agent) futureState(release bundle.Version, cu bundle.ClassUpgrade) (string, error) {
	dir := a.slots.Objects().FutureState(release)
	if dir == "" || cu.Future.Kind != bundle.SimulateWasm {
		return dir, nil
	}
	if err := wasm.RecoverFileKV(dir); err != nil {
		return "", fmt.Errorf("state of the future object of release %d: %w", release, err)
	}
	return dir, nil
}

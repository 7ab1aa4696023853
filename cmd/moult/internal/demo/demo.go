package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/screen"
	"moult/cmd/moult/internal/web"
	"moult/store/bundle"
	"moult/store/bundle/build"
	"moult/store/bundle/trust"
	"moult/testdata/kv/kvload"
)

// Times of the load beside the upgrade.
const (
	warmUp   = 2 * time.Second // before it
	coolDown = 2 * time.Second // after it
)

// Config is what a demo is to be.
type Config struct {
	Nodes int
	Rate  float64 // calls per second of each version's clients, all nodes together
	Keep  bool    // the folder with everything in it
	// Talk is told how the story goes, in whole lines. Screen is the terminal that it writes
	// to, if it does: there the cluster is drawn in its place.
	Talk   io.Writer
	Screen screen.Terminal
	// Bad has release 2 be one that cannot read what the nodes have stored.
	Bad bool
	// Revert has release 2 taken back when all have settled at it, and then gone forward to
	// again.
	Revert bool
	// Page, if not nil, serves a page of the cluster: the upgrade begins when it is opened, and
	// at the end the cluster stays until Run's context ends.
	Page func(api *control.Client) (*web.Server, error)
	// Timeout is how long the story may take. What waits for somebody does not count: that the
	// page is opened, and that the demo is interrupted at the end.
	Timeout time.Duration
	// Told is given the figures as soon as there are any.
	Told func(*Report) error
	// Build checks the rules files of the releases.
	Build build.Options
}

// ErrTimeout is a story that was not over in time.
var ErrTimeout = errors.New("the demo did not end")

// Run plays the story and returns its figures. Whatever happens, ctx's end
// included, its processes have ended when it returns.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	dir, err := os.MkdirTemp("", "moult-demo-")
	if err != nil {
		return nil, fmt.Errorf("make the demo's folder: %w", err)
	}
	d := &demo{Config: cfg, dir: dir, left: cfg.Timeout}
	report, err := d.run(ctx)
	if err == nil {
		err = cfg.Told(report)
	}
	if d.page != nil {
		if err == nil {
			d.say("the cluster and its page stay until you interrupt the demo")
			select {
			case <-ctx.Done():
			case err = <-d.page.Ended():
			}
		}
		err = errors.Join(err, d.page.Close())
	}
	stopped := d.cluster.Stop()
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		err = errors.New("the demo was interrupted")
		if stopped == nil {
			err = errors.New("the demo was interrupted; its agents and nodes have ended")
		}
	}
	err = errors.Join(err, stopped)
	if cfg.Keep {
		fmt.Fprintf(cfg.Talk, "moult: everything is kept in %s\n", dir)
	} else {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return report, err
}

// demo is one run.
type demo struct {
	Config
	dir     string
	cluster cluster.Cluster
	loads   []*kvload.Load
	page    *web.Server
	left    time.Duration // of Timeout
}

// timed plays a part of the story within what is left of its time.
func (d *demo) timed(ctx context.Context, part func(context.Context) error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, d.left)
	defer cancel()
	err := part(ctx)
	d.left -= time.Since(began)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("%w within %v: %w", ErrTimeout, d.Timeout, err)
	}
	return err
}

// injector is the peer at which releases are injected: not the first, to show
// that any will do.
func (d *demo) injector() *cluster.Agent { return d.cluster.Agents[len(d.cluster.Agents)-1] }

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.Talk, format+"\n", args...) }

// run plays the story and returns its figures.
func (d *demo) run(ctx context.Context) (report *Report, err error) {
	n := d.Nodes
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's file: %w", err)
	}
	if err := d.timed(ctx, func(ctx context.Context) error { return d.start(ctx, exe, n) }); err != nil {
		return nil, err
	}
	if err := d.show(ctx); err != nil {
		return nil, err
	}
	err = d.timed(ctx, func(ctx context.Context) (err error) {
		if d.Bad {
			report, err = d.bad(ctx, exe, n)
		} else {
			report, err = d.upgrade(ctx, exe, n)
		}
		return err
	})
	return report, err
}

// start starts the cluster, with version 1 on every node.
func (d *demo) start(ctx context.Context, exe string, n int) error {
	d.say("making keys and starting %d agents", n)
	if err := trust.Init(cluster.Trust(d.dir), trust.InitOptions{Now: time.Now()}); err != nil {
		return err
	}
	if err := d.cluster.Start(d.dir, exe, n); err != nil {
		return err
	}
	if err := d.cluster.Await(ctx, "all agents to find each other", func(s control.Status) bool { return len(s.Nodes) == n && cluster.Reachable(s) == n }); err != nil {
		return err
	}
	d.say("release 1, the first: injected at %s, it installs itself everywhere", d.injector().Name)
	if err := d.release(ctx, exe, 1); err != nil {
		return err
	}
	return d.cluster.Await(ctx, "release 1 on every node", func(s control.Status) bool { return cluster.Settled(s, 1) == n })
}

// show serves the page, if there is to be one, and waits until it is opened.
func (d *demo) show(ctx context.Context) (err error) {
	if d.Page == nil {
		return nil
	}
	if d.page, err = d.Page(d.injector().API); err != nil {
		return err
	}
	d.say("open %s in a browser: the upgrade begins then", d.page.Address())
	select {
	case <-d.page.Opened():
		return nil
	case err := <-d.page.Ended():
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for somebody to open the page: %w", ctx.Err())
	}
}

// upgrade takes the running cluster to version 2 under load.
func (d *demo) upgrade(ctx context.Context, exe string, n int) (*Report, error) {
	loadCtx, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	results := make(chan *kvload.Result, 2)
	d.say("clients of version 1 call every node, all the time")
	if err := d.load(loadCtx, 1, results); err != nil {
		return nil, err
	}
	if err := wait(ctx, warmUp); err != nil {
		return nil, err
	}
	d.say("release 2 changes the protocol and the stored state; it is injected at %s", d.injector().Name)
	began := time.Now()
	if err := d.release(ctx, exe, 2); err != nil {
		return nil, err
	}
	if err := d.cluster.Await(ctx, "every node to answer callers of version 2", func(s control.Status) bool { return cluster.Answering(s, 2) == n }); err != nil {
		return nil, err
	}
	d.say("clients of version 2 call every node, too")
	if err := d.load(loadCtx, 2, results); err != nil {
		return nil, err
	}
	status, err := d.follow(ctx, operator.Goal{Release: 2})
	if err != nil {
		return nil, err
	}
	took := bundle.Duration(time.Since(began))
	var turns []bundle.Duration
	if d.Revert {
		if turns, status, err = d.backAndForth(ctx); err != nil {
			return nil, err
		}
	}
	if err := wait(ctx, coolDown); err != nil {
		return nil, err
	}
	stopLoad()
	r := newReport(n, took, status)
	r.Turns = turns
	for range d.loads {
		r.addLoad(<-results)
	}
	return r, measure(ctx, d.cluster, d.injector(), r)
}

// load starts clients of one version against every node.
func (d *demo) load(ctx context.Context, version int, results chan<- *kvload.Result) error {
	cfg := kvload.DefaultConfig()
	cfg.Version, cfg.Rate, cfg.Repair, cfg.Workers, cfg.Back = version, d.Rate, true, 2, d.Revert
	for _, a := range d.cluster.Agents {
		cfg.Targets = append(cfg.Targets, kvload.Target{Name: a.Name, URL: "http://" + a.Versioned(version)})
	}
	l, err := kvload.New(cfg)
	if err != nil {
		return err
	}
	d.loads = append(d.loads, l)
	go func() { results <- l.Run(ctx) }()
	return nil
}

// release builds a bundle and injects it at one peer, as a publisher who is
// also the operator does.
func (d *demo) release(ctx context.Context, exe string, version bundle.Version) error {
	path, err := WriteSpec(d.dir, exe, version)
	if err == nil && d.Revert && version == 2 {
		err = Reversible(path)
	}
	if err != nil {
		return err
	}
	return d.inject(ctx, path, version)
}

func (d *demo) inject(ctx context.Context, specPath string, version bundle.Version) error {
	spec, err := build.Load(specPath)
	if err != nil {
		return err
	}
	out := filepath.Join(d.dir, fmt.Sprintf("release-%d.moult", version))
	if err := d.build(ctx, spec, out); err != nil {
		return err
	}
	return d.injector().Inject(ctx, cluster.Trust(d.dir), out)
}

func (d *demo) build(ctx context.Context, spec *build.Spec, out string) error {
	folder, err := trust.OpenFolder(cluster.Trust(d.dir), time.Now())
	if err != nil {
		return err
	}
	defer folder.Close()
	_, err = build.Build(ctx, spec, folder, out, d.Build)
	return err
}

// wait lets the load go on for a while.
func wait(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}

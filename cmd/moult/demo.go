package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/build"
	"moult/store/bundle/trust"
	"moult/testdata/kv/kvload"
)

// Times of the demo.
const (
	demoTimeout  = 5 * time.Minute
	demoWarmUp   = 2 * time.Second // of load before the upgrade
	demoCoolDown = 2 * time.Second // of load after it
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "show a whole upgrade on this machine: real agents, real nodes, clients that go on calling",
		Description: "Starts agents and nodes of a small key-value system as processes on the loopback\n" +
			"interface, lets clients of version 1 and of version 2 call every node all the time, injects\n" +
			"a signed release at one peer, and watches it take every node from version 1 to version 2.\n" +
			"Exit 0 only if no call failed, no more nodes were down than the budget, and all settled.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "nodes", Value: 5, Usage: "how many `N` nodes, 2 to 30"},
			&cli.Float64Flag{Name: "rate", Value: 100, Usage: "calls per second of each version's clients, all nodes together"},
			&cli.BoolFlag{Name: "keep", Usage: "keep the folder with everything in it"},
			outputFlag(), timeoutFlag(demoTimeout),
			&cli.BoolFlag{Name: "no-color", EnvVars: []string{"NO_COLOR"}, Usage: "no colour"},
		},
		Action: runDemo,
	}
}

func runDemo(c *cli.Context) (err error) {
	if err := noArgs(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	n := c.Int("nodes")
	if n < 2 || n > 30 {
		return misusef("", "--nodes %d: want 2 to 30", n)
	}
	dir, err := os.MkdirTemp("", "moult-demo-")
	if err != nil {
		return fmt.Errorf("make the demo's folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	d := &demo{dir: dir, talk: c.App.ErrWriter, live: isTerminal(c.App.ErrWriter) && !asJSON && !c.Bool("no-color"), rate: c.Float64("rate")}
	report, err := d.run(ctx, n)
	err = errors.Join(err, d.cluster.stop())
	if c.Bool("keep") {
		fmt.Fprintf(c.App.ErrWriter, "moult: everything is kept in %s\n", dir)
	} else {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &exitError{code: exitTimedOut, err: fmt.Errorf("the demo did not end within %v: %w", c.Duration("timeout"), err), hint: "--timeout gives it longer; --keep keeps the logs"}
		}
		return err
	}
	if asJSON {
		err = writeJSON(c.App.Writer, report)
	} else {
		err = report.print(c.App.Writer)
	}
	return errors.Join(err, report.verdict())
}

// demo is one run.
type demo struct {
	dir     string
	talk    io.Writer
	live    bool // the table is drawn in place
	rate    float64
	cluster demoCluster
	loads   []*kvload.Load
	drawn   int // lines of the table on the screen
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.talk, format+"\n", args...) }

// run plays the story and returns its figures.
func (d *demo) run(ctx context.Context, n int) (*demoReport, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's file: %w", err)
	}
	d.say("making keys and starting %d agents", n)
	trustDir := filepath.Join(d.dir, "trust")
	if err := trust.Init(trustDir, trust.InitOptions{Now: time.Now()}); err != nil {
		return nil, err
	}
	if err := d.cluster.start(d.dir, exe, n); err != nil {
		return nil, err
	}
	if err := d.cluster.await(ctx, "all agents to find each other", func(s control.Status) bool { return len(s.Nodes) == n && reachable(s) == n }); err != nil {
		return nil, err
	}
	d.say("release 1, the first: injected at %s, it installs itself everywhere", d.cluster.injector().name)
	if err := d.release(ctx, exe, 1); err != nil {
		return nil, err
	}
	if err := d.cluster.await(ctx, "release 1 on every node", func(s control.Status) bool { return settled(s, 1) == n }); err != nil {
		return nil, err
	}
	return d.upgrade(ctx, exe, n)
}

// upgrade takes the running cluster to version 2 under load.
func (d *demo) upgrade(ctx context.Context, exe string, n int) (*demoReport, error) {
	loadCtx, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	results := make(chan *kvload.Result, 2)
	d.say("clients of version 1 call every node, all the time")
	if err := d.load(loadCtx, 1, results); err != nil {
		return nil, err
	}
	if err := wait(ctx, demoWarmUp); err != nil {
		return nil, err
	}
	d.say("release 2 changes the protocol and the stored state; it is injected at %s", d.cluster.injector().name)
	began := time.Now()
	if err := d.release(ctx, exe, 2); err != nil {
		return nil, err
	}
	if err := d.cluster.await(ctx, "every node to answer callers of version 2", func(s control.Status) bool { return answering(s, 2) == n }); err != nil {
		return nil, err
	}
	d.say("clients of version 2 call every node, too")
	if err := d.load(loadCtx, 2, results); err != nil {
		return nil, err
	}
	status, err := d.follow(ctx, 2)
	if err != nil {
		return nil, err
	}
	seconds := time.Since(began).Seconds()
	if err := wait(ctx, demoCoolDown); err != nil {
		return nil, err
	}
	stopLoad()
	r := newDemoReport(n, seconds, status)
	for range d.loads {
		r.addLoad(<-results)
	}
	return r, d.cluster.measure(ctx, r)
}

// load starts clients of one version against every node.
func (d *demo) load(ctx context.Context, version int, results chan<- *kvload.Result) error {
	cfg := kvload.DefaultConfig()
	cfg.Version, cfg.Rate, cfg.Repair, cfg.Workers = version, d.rate, true, 2
	for _, a := range d.cluster.agents {
		cfg.Targets = append(cfg.Targets, kvload.Target{Name: a.name, URL: "http://" + a.versioned(version)})
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
	specPath, err := writeDemoSpec(d.dir, exe, version)
	if err != nil {
		return err
	}
	spec, err := build.Load(specPath)
	if err != nil {
		return err
	}
	folder, err := trust.OpenFolder(filepath.Join(d.dir, "trust"), time.Now())
	if err != nil {
		return err
	}
	defer folder.Close()
	out := filepath.Join(d.dir, fmt.Sprintf("release-%d.moult", version))
	if _, err := build.Build(ctx, spec, folder, out, buildOptions()); err != nil {
		return err
	}
	f, err := os.Open(out)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := archive.Open(f, fi.Size(), folder.FirstRoot(), nil)
	if err != nil {
		return err
	}
	api := d.cluster.injector().api
	signed, err := operator.New(folder).Begin(ctx, api, b)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = api.Inject(ctx, f, signed)
	return err
}

// follow shows the table until the release is complete.
func (d *demo) follow(ctx context.Context, release bundle.Version) (control.Status, error) {
	s, err := operator.Follow(ctx, d.cluster.injector().api, release, d.draw)
	if s == nil {
		return control.Status{}, err
	}
	return *s, err
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

func reachable(s control.Status) (n int) {
	for _, node := range s.Nodes {
		if node.Reachable {
			n++
		}
	}
	return n
}

func settled(s control.Status, v bundle.Version) (n int) {
	for _, node := range s.Nodes {
		if node.Version >= v && node.Phase == "current" {
			n++
		}
	}
	return n
}

func answering(s control.Status, v bundle.Version) (n int) {
	for _, node := range s.Nodes {
		if node.Services["api"].Versions[v] != "" {
			n++
		}
	}
	return n
}

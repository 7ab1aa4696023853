package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/fleet"
	"moult/cmd/moult/internal/chart"
	"moult/cmd/moult/internal/plan"
	"moult/store/bundle"
	"moult/store/bundle/build"
)

func simulateCommand() *cli.Command {
	about := func(name string, d time.Duration, what string) cli.Flag {
		return &cli.DurationFlag{Name: name, Value: d, Usage: "`TIME` that " + what + ", on average"}
	}
	return &cli.Command{
		Name:      "simulate",
		Usage:     "roll a release out on a fleet that is made up, and do nothing",
		ArgsUsage: "[BUNDLE]",
		Description: "How long a schedule takes, how many nodes are down meanwhile, and for how long two versions\n" +
			"serve at once. The schedule is that of a bundle, or with -f of a release's spec. Nodes decide as\n" +
			"real ones do; how long they take and what fails is made up, by --seed: with one seed different\n" +
			"schedules meet the same fleet.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "f", Usage: "the release's spec, `FILE`, instead of a bundle"},
			&cli.StringFlag{Name: "root", Usage: "the `FILE` of the cluster's first root; default: root.json of the trust folder"},
			&cli.StringFlag{Name: "class", Usage: "the `CLASS` whose schedule it is; default: the only one"},
			&cli.IntFlag{Name: "nodes", Value: 100, Usage: "`NUMBER` of nodes"},
			&cli.IntFlag{Name: "zones", Value: 3, Usage: "`NUMBER` of zones, of equal size, by the label that the schedule names"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`NUMBER` from which all chance follows"},
			about("fetch-time", time.Minute, "it takes to fetch the release"),
			about("stop-time", 5*time.Second, "the old software takes to end"),
			about("transform-time", 30*time.Second, "the transform takes"),
			about("start-time", 10*time.Second, "the new software takes to be healthy"),
			&cli.DurationFlag{Name: "network-delay", Value: time.Second, Usage: "`TIME` until all know what a node says"},
			&cli.Float64Flag{Name: "fail-rate", Usage: "`SHARE` of the nodes, 0 to 1, whose software never gets healthy"},
			&cli.Float64Flag{Name: "unwell-rate", Usage: "`SHARE` of the nodes, 0 to 1, whose software fails in its soak"},
			&cli.StringFlag{Name: "begin", Usage: "`TIME` at which the rollout begins, for windows, such as 2026-01-05T09:00:00Z; default: that"},
			&cli.StringFlag{Name: "plot", Usage: "draw who served, had settled and was down over time, too, into `FILE`, .svg or .png"},
			trustFlag(), outputFlag(),
		},
		Action: simulate,
	}
}

// simulateBegin is a Monday.
var simulateBegin = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

// simulateMost is after how long a simulated rollout is given up.
const simulateMost = 366 * 24 * time.Hour

func simulate(c *cli.Context) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	upgrades, err := simulated(c)
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(upgrades))
	class := bundle.Class(c.String("class"))
	if class == "" && len(names) == 1 {
		class = names[0]
	}
	u, ok := upgrades[class]
	if !ok {
		return misusef("name one with --class", "simulate: the release upgrades the classes %s", plan.ClassNames(names))
	}
	begin := simulateBegin
	if text := c.String("begin"); text != "" {
		if begin, err = time.Parse(time.RFC3339, text); err != nil {
			return misusef("such as 2026-01-05T09:00:00Z", "simulate: --begin %q is no time", text)
		}
	}
	conditions := u.Schedule.When != "" || u.Schedule.HoldIf != ""
	u.Schedule.When, u.Schedule.HoldIf = "", ""
	config := fleet.Config{
		Seed: c.Uint64("seed"), Nodes: c.Int("nodes"), Zones: c.Int("zones"), Class: class, Schedule: u.Schedule,
		Begin: begin, Zone: time.LoadLocation, Most: simulateMost,
		Fetch: c.Duration("fetch-time"), Stop: c.Duration("stop-time"), Transform: c.Duration("transform-time"), Start: c.Duration("start-time"),
		Probe: time.Duration(u.Health.MinHealthyTime), Delay: c.Duration("network-delay"),
		FailRate: c.Float64("fail-rate"), UnwellRate: c.Float64("unwell-rate"),
	}
	if err := config.Validate(); err != nil {
		return misusef("see `moult simulate --help`", "simulate: %w", err)
	}
	var series chart.Series
	picture := c.String("plot")
	if c.IsSet("plot") {
		if err := chart.Check(picture); err != nil {
			return misusef("such as --plot course.svg, in a folder that is there", "simulate: --plot: %w", err)
		}
		config.Watch = series.Note
	}
	report, err := fleet.Run(config)
	if err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	if config.Watch != nil {
		if err := chart.Write(picture, chartTitle(config, report), report.Nodes, &series); err != nil {
			return fmt.Errorf("simulate: --plot: %w", err)
		}
	}
	if conditions {
		fmt.Fprintln(c.App.ErrWriter, "moult: note: nodes that are made up have no facts: the conditions when and hold_if are left out")
	}
	if len(u.Schedule.After) > 0 {
		fmt.Fprintf(c.App.ErrWriter, "moult: note: the fleet has no nodes of class %s, which settles first\n", plan.ClassNames(u.Schedule.After))
	}
	if u.Schedule.Strategy == bundle.StrategyManual {
		fmt.Fprintln(c.App.ErrWriter, "moult: note: under the strategy manual nobody goes before `moult start` names it, and here nobody does")
	}
	if asJSON {
		return writeJSON(c.App.Writer, report)
	}
	return printSimulated(c.App.Writer, config, report)
}

// simulated reads the class upgrades of the spec or the bundle.
func simulated(c *cli.Context) (map[bundle.Class]bundle.ClassUpgrade, error) {
	if path := c.String("f"); path != "" {
		if c.Args().Present() {
			return nil, misusef("leave one out", "simulate: a spec and a bundle are given")
		}
		spec, err := build.Load(path)
		if err != nil {
			return nil, fmt.Errorf("simulate: %w", err)
		}
		upgrades := map[bundle.Class]bundle.ClassUpgrade{}
		for _, s := range spec.Classes {
			upgrades[s.Name] = s.Upgrade
		}
		return upgrades, nil
	}
	path, err := oneArg(c, "the bundle's file, or -f with a release's spec")
	if err != nil {
		return nil, err
	}
	root, err := planRoot(c)
	if err != nil {
		return nil, err
	}
	b, f, err := openBundle(path, root, c.App.ErrWriter)
	if err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	defer f.Close()
	return b.Head().Classes, nil
}

func chartTitle(c fleet.Config, r fleet.Report) string {
	return fmt.Sprintf("class %s, %d nodes: %s, %s, at most %d down at once", c.Class, r.Nodes, r.State, r.Took, r.MostDown)
}

func printSimulated(out io.Writer, c fleet.Config, r fleet.Report) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "schedule\t%s\n", plan.ScheduleWords(c.Schedule))
	end := r.State
	if r.Reason != "" {
		end += ": " + r.Reason
	}
	fmt.Fprintf(w, "rollout\t%s\n", end)
	fmt.Fprintf(w, "nodes\t%d, of which %d settled and %d failed\n", r.Nodes, r.Settled, r.Failed)
	fmt.Fprintf(w, "took\t%s\n", r.Took)
	fmt.Fprintf(w, "down at once\t%d at most, %d of one zone\n", r.MostDown, r.MostDownZone)
	fmt.Fprintf(w, "availability\t%.2f %% at the lowest, %.2f %% on average\n", 100*r.Availability, 100*r.Mean)
	fmt.Fprintf(w, "two versions\t%s\n", r.Mixed)
	return w.Flush()
}

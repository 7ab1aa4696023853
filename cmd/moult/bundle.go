package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/operator"
	"moult/agent/schedule"
	"moult/cmd/moult/internal/plan"
	"moult/cmd/moult/internal/screen"
	"moult/simlayer/so"
	"moult/simlayer/so/wasm"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/build"
	"moult/store/bundle/trust"
	"moult/store/durable"
)

func bundleCommand() *cli.Command {
	root := &cli.StringFlag{Name: "root", Usage: "the `FILE` of the cluster's first root"}
	return &cli.Command{
		Name:  "bundle",
		Usage: "make and look at bundles",
		Subcommands: []*cli.Command{
			{
				Name:  "build",
				Usage: "pack and sign a release",
				Description: "What is signed as release N cannot be changed any more: --check does all but that.\n" +
					"An agent, if there is one to ask, is asked for the nodes, and what does not fit them is\n" +
					"told.",
				Flags: []cli.Flag{trustFlag(), agentFlag(),
					&cli.BoolFlag{Name: "check", Usage: "pack and check everything, sign nothing, and write nothing; needs no key"},
					&cli.StringFlag{Name: "f", Value: "upgrade.hcl", Usage: "the release spec `FILE`"},
					&cli.StringFlag{Name: "out", Usage: "the `FILE` to write; default: release-N.moult"}},
				Action: buildBundle,
			},
			{
				Name:      "inspect",
				Usage:     "show what a bundle holds, after checking it",
				ArgsUsage: "BUNDLE",
				Flags:     []cli.Flag{root, outputFlag()},
				Action:    inspectBundle,
			},
			{
				Name:      "verify",
				Usage:     "check every byte of a bundle against a root",
				ArgsUsage: "BUNDLE",
				Flags:     []cli.Flag{root},
				Action: func(c *cli.Context) error {
					return withBundle(c, func(b *archive.Bundle) error {
						m := b.Head()
						digest := bundle.Sum(b.ManifestBytes(m.Version))
						say(c, "release %d is whole and signed: %s", m.Version, digest)
						made(c, m.Version, digest)
						return nil
					})
				},
			},
		},
	}
}

func buildBundle(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	spec, err := build.Load(c.String("f"))
	if errors.Is(err, fs.ErrNotExist) {
		return failedf("name the release spec with -f", "%w", err)
	}
	if err != nil {
		return err
	}
	for _, class := range spec.Classes {
		for _, warning := range class.Upgrade.Warnings() {
			printNotes(c, []string{fmt.Sprintf("class %s: %s", class.Name, warning)})
		}
	}
	if err := doubt(c, spec); err != nil {
		return err
	}
	if c.Bool("check") {
		return checkBuild(c, spec)
	}
	folder, err := openTrust(c)
	if err != nil {
		return err
	}
	defer folder.Close()
	out := c.String("out")
	if out == "" {
		out = fmt.Sprintf("release-%d.moult", spec.Version)
	}
	options := buildOptions()
	if options.Withdrawn, err = knownWithdrawn(c, folder); err != nil {
		return err
	}
	shown := screen.TransferOn(c.App.ErrWriter)
	options.Progress = shown.Show
	r, err := build.Build(c.Context, spec, folder, out, options)
	shown.Done()
	if err != nil {
		return err
	}
	if o := outcomeOf(c); o != nil {
		o.File = out
	} else {
		fmt.Fprintf(c.App.Writer, "%s\n", r.Manifest)
	}
	made(c, r.Version, r.Manifest)
	say(c, "release %d is in %s, and signed: other content needs the next number", r.Version, out)
	return nil
}

// checkBuild does what a build would, and signs nothing. What the release would follow
// stands in the trust folder, if there is one.
func checkBuild(c *cli.Context, spec *build.Spec) error {
	folder, err := openTrust(c)
	switch {
	case err == nil:
		defer folder.Close()
	case errors.Is(err, fs.ErrNotExist) && !c.IsSet("trust"):
		printNotes(c, []string{"without a trust folder (--trust), what the release would follow is not looked at"})
	default:
		return err
	}
	options := buildOptions()
	if options.Withdrawn, err = knownWithdrawn(c, folder); err != nil {
		return err
	}
	shown := screen.TransferOn(c.App.ErrWriter)
	options.Progress = shown.Show
	r, err := build.Check(c.Context, spec, folder, options)
	shown.Done()
	if err != nil {
		return err
	}
	made(c, r.Version, r.Manifest)
	say(c, "release %d can be built; nothing was signed", r.Version)
	return nil
}

// doubt tells what of a release does not fit the nodes that an agent knows, if there is
// one to ask.
func doubt(c *cli.Context, spec *build.Spec) error {
	ctx, cancel := context.WithTimeout(c.Context, askTimeout)
	defer cancel()
	api := client(c)
	defer api.Close()
	status, err := api.Status(ctx, false)
	if err != nil {
		if c.IsSet("agent") {
			printNotes(c, []string{fmt.Sprintf("whether the release fits the nodes was not looked at: %v", err)})
		}
		return c.Context.Err()
	}
	m := bundle.Manifest{Version: spec.Version, Classes: map[bundle.Class]bundle.ClassUpgrade{}}
	for _, class := range spec.Classes {
		m.Classes[class.Name] = class.Upgrade
	}
	printNotes(c, operator.Doubts(&m, status))
	return nil
}

// buildOptions checks rules files by the language that agents read, and by the
// examples that they carry.
func buildOptions() build.Options {
	return build.Options{CheckRules: func(path string, data []byte) error {
		rules, err := so.ParseRules(data, path)
		if err != nil {
			return err
		}
		return so.Failed(rules.Test())
	}, CheckWasm: checkWasm}
}

// checkWasm opens a module as the object host will.
func checkWasm(path string, data []byte) error {
	ctx := context.Background()
	o, err := wasm.Open(ctx, data, wasm.Config{
		Name: path, From: 1, To: 2, Log: slog.New(slog.DiscardHandler), Limits: wasm.DefaultLimits(),
	})
	if err != nil {
		return err
	}
	return o.Close(ctx)
}

// withBundle opens and checks the bundle that the command line names.
func withBundle(c *cli.Context, do func(*archive.Bundle) error) error {
	path, err := oneArg(c, "the bundle's file")
	if err != nil {
		return err
	}
	if c.String("root") == "" {
		return misusef("it is the root.json that `moult trust init` made", "%s takes the cluster's first root: --root FILE", commandName(c))
	}
	root, err := durable.ReadFile(c.String("root"), trust.MaxRootBytes)
	if err == nil {
		_, err = trust.Genesis(root)
	}
	if err != nil {
		return failedf("it is the root.json that `moult trust init` made", "read the cluster's first root %s: %w", c.String("root"), err)
	}
	b, f, err := openBundle(path, root, c.App.ErrWriter)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(b)
}

// inspection is `moult bundle inspect -o json`.
type inspection struct {
	Cluster  bundle.Digest   `json:"cluster"`
	Digest   bundle.Digest   `json:"digest"`
	Expires  time.Time       `json:"expires"`
	Manifest bundle.Manifest `json:"manifest"`
	Order    bool            `json:"order"`
}

func inspectBundle(c *cli.Context) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	return withBundle(c, func(b *archive.Bundle) error {
		m := b.Head()
		_, ordered := b.Order(m.Version)
		in := inspection{
			Cluster: b.Trust().Cluster(), Digest: bundle.Sum(b.ManifestBytes(m.Version)),
			Expires: b.Trust().Expires(), Manifest: *m, Order: ordered,
		}
		if asJSON {
			return writeJSON(c.App.Writer, in)
		}
		return in.print(c.App.Writer)
	})
}

func (in inspection) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	m := in.Manifest
	fmt.Fprintf(w, "release\t%d\n", m.Version)
	fmt.Fprintf(w, "digest\t%s\n", in.Digest)
	fmt.Fprintf(w, "cluster\t%s\n", in.Cluster.Short())
	fmt.Fprintf(w, "good until\t%s\n", in.Expires.Format(time.DateOnly))
	for _, name := range slices.Sorted(maps.Keys(m.Classes)) {
		cu := m.Classes[name]
		fmt.Fprintf(w, "class %s\tfrom version %d\n", name, cu.From)
		for _, a := range cu.Artifacts {
			fmt.Fprintf(w, "  artifact\t%s, %d bytes in %d chunks\n", a.Platform, a.Length, len(a.Chunks))
		}
		fmt.Fprintf(w, "  command\t%s\n", strings.Join(cu.Command, " "))
		if len(cu.Transform.Exec) > 0 {
			fmt.Fprintf(w, "  transform\t%s\n", strings.Join(cu.Transform.Exec, " "))
		} else {
			fmt.Fprintf(w, "  transform\tcopy\n")
		}
		fmt.Fprintf(w, "  past\t%s\n", describeSimulation(cu.Past))
		fmt.Fprintf(w, "  future\t%s\n", describeSimulation(cu.Future))
		s := cu.Schedule
		fmt.Fprintf(w, "  schedule\t%s, at most %s down, canary %d, soak %s\n", s.Strategy, s.MaxUnavailable, s.Canary, s.Soak)
		if len(s.Waves) > 0 {
			fmt.Fprintf(w, "  waves\t%s\n", plan.WaveWords(s.Waves))
		}
		if s.Spread != nil {
			fmt.Fprintf(w, "  spread\tat most %d of each %s\n", s.Spread.Max, s.Spread.Label)
		}
		for _, window := range s.Windows {
			fmt.Fprintf(w, "  window\t%s\n", schedule.WindowText(window))
		}
		if len(s.After) > 0 {
			fmt.Fprintf(w, "  after\t%s\n", plan.ClassNames(s.After))
		}
		if s.When != "" {
			fmt.Fprintf(w, "  when\t%s\n", screen.Line(s.When))
		}
		if s.HoldIf != "" {
			fmt.Fprintf(w, "  hold if\t%s\n", screen.Line(s.HoldIf))
		}
		plan.PrintFacts(w, cu.Facts)
	}
	if a := m.Agent; a != nil {
		fmt.Fprintf(w, "agent\tat most %s replaced at once\n", a.MaxUnavailable)
		for _, art := range a.Artifacts {
			fmt.Fprintf(w, "  artifact\t%s, %d bytes in %d chunks, program %s\n", art.Platform, art.Length, len(art.Chunks), art.Program.Short())
		}
	}
	return w.Flush()
}

func describeSimulation(s bundle.Simulation) string {
	words := s.Kind
	switch s.Kind {
	case bundle.SimulateRules, bundle.SimulateWasm:
		blob, _ := s.Blob()
		words = fmt.Sprintf("%s, %d bytes", s.Kind, blob.Length)
	case bundle.SimulateExec:
		words = "exec: " + strings.Join(s.Exec, " ")
	case bundle.SimulateRefuse:
		words = "refuse: " + s.Reason
	}
	if s.Observe {
		words += ", observes"
	}
	if s.RetireAfter != 0 {
		words += fmt.Sprintf(", retired after %s", s.RetireAfter)
	}
	return words
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
	"moult/store/durable"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "tell what a release would do, and do nothing",
		ArgsUsage: "BUNDLE",
		Description: "Per class: what is transformed and how, and which calls between which versions would be\n" +
			"simulated, pass as they are, or be refused. With an agent to ask it also tells which nodes\n" +
			"run which version, and in which order they would go. Without --agent the agent of this\n" +
			"machine is asked if there is one.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", Usage: "the `FILE` of the cluster's first root; default: root.json of the trust folder"},
			trustFlag(), agentFlag(), outputFlag(),
		},
		Action: plan,
	}
}

// askTimeout bounds the questions to an agent that only add to what is told.
const askTimeout = 10 * time.Second

func plan(c *cli.Context) error {
	path, err := oneArg(c, "the bundle's file")
	if err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	root, err := planRoot(c)
	if err != nil {
		return err
	}
	b, f, err := openBundle(path, root)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	defer f.Close()
	report, err := planOf(b)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.Context, askTimeout)
	defer cancel()
	api := client(c)
	defer api.Close()
	switch ring, err := planRing(ctx, api, b, root); {
	case err == nil:
		report.Ring = ring
	case c.IsSet("agent"):
		return fmt.Errorf("plan: %w", err)
	default:
		fmt.Fprintf(c.App.ErrWriter, "moult: without an agent to ask (--agent), the nodes and their order are not shown: %v\n", err)
	}
	if asJSON {
		return writeJSON(c.App.Writer, report)
	}
	return report.print(c.App.Writer)
}

// planRoot reads the cluster's first root.
func planRoot(c *cli.Context) ([]byte, error) {
	path := c.String("root")
	if path == "" {
		path = filepath.Join(c.String("trust"), "root.json")
	}
	root, err := durable.ReadFile(path, trust.MaxRootBytes)
	if err == nil {
		_, err = trust.Genesis(root)
	}
	if err != nil {
		return nil, failedf("name the root.json that `moult trust init` made with --root, or its folder with --trust",
			"plan: read the cluster's first root %s: %w", path, err)
	}
	return root, nil
}

// planReport is `moult plan -o json`.
type planReport struct {
	Version bundle.Version `json:"version"`
	Digest  bundle.Digest  `json:"digest"`
	Cluster bundle.Digest  `json:"cluster"`
	Expires time.Time      `json:"expires"`
	Classes []planClass    `json:"classes"`
	Ring    *planRingPart  `json:"ring,omitempty"`
}

// planClass is what the release does to one class.
type planClass struct {
	Class     bundle.Class           `json:"class"`
	From      bundle.Version         `json:"from"`
	To        bundle.Version         `json:"to"`
	Artifacts []planArtifact         `json:"artifacts"`
	Services  map[string]string      `json:"services"` // their protocols
	Transform string                 `json:"transform"`
	Exec      []string               `json:"transform_exec,omitempty"`
	Reverse   *bundle.Reverse        `json:"reverse,omitempty"`
	Schedule  string                 `json:"schedule"`
	Spec      bundle.ScheduleSpec    `json:"schedule_spec"`
	Facts     map[string]bundle.Fact `json:"facts,omitempty"`
	Calls     []planCalls            `json:"calls"`
	Warnings  []string               `json:"warnings,omitempty"`
}

type planArtifact struct {
	Platform bundle.Platform `json:"platform"`
	Bytes    int64           `json:"bytes"`
	Chunks   int             `json:"chunks"`
}

// planCalls says what becomes of the calls of one version's callers at nodes of
// another.
type planCalls struct {
	Callers bundle.Version `json:"callers"`
	Nodes   bundle.Version `json:"nodes"`
	// Object is which object answers, "past" or "future", and Kind what it is.
	Object string `json:"object"`
	Kind   string `json:"kind"`
	// Fate is "simulated", "compatible" or "refused".
	Fate        string          `json:"fate"`
	Reason      string          `json:"reason,omitempty"`
	Rules       *rulesOutline   `json:"rules,omitempty"`
	Bytes       int64           `json:"bytes,omitempty"` // of a wasm module
	Exec        []string        `json:"exec,omitempty"`
	Observe     bool            `json:"observe,omitempty"`
	RetireAfter bundle.Duration `json:"retire_after,omitempty"`
	// NotHTTP lists services that an object for http calls does not answer for.
	NotHTTP []string `json:"not_http,omitempty"`
}

// Fates of calls.
const (
	fateSimulated  = "simulated"
	fateCompatible = "compatible"
	fateRefused    = "refused"
)

func planOf(b *archive.Bundle) (*planReport, error) {
	m := b.Head()
	r := &planReport{
		Version: m.Version, Digest: bundle.Sum(b.ManifestBytes(m.Version)), Cluster: b.Trust().Cluster(),
		Expires: b.Trust().Expires(), Classes: []planClass{},
	}
	for _, name := range slices.Sorted(maps.Keys(m.Classes)) {
		cu := m.Classes[name]
		p := planClass{
			Class: name, From: cu.From, To: m.Version, Services: map[string]string{},
			Transform: transformWords(cu), Exec: cu.Transform.Exec, Reverse: cu.Transform.Reverse, Schedule: scheduleWords(cu.Schedule), Spec: cu.Schedule, Facts: cu.Facts, Calls: []planCalls{}, Warnings: cu.Warnings(),
		}
		for _, a := range cu.Artifacts {
			p.Artifacts = append(p.Artifacts, planArtifact{Platform: a.Platform, Bytes: a.Length, Chunks: len(a.Chunks)})
		}
		for service, s := range cu.Services {
			p.Services[service] = s.Protocol
		}
		if cu.From != 0 {
			past := planCalls{Callers: cu.From, Nodes: m.Version, Object: "past", RetireAfter: cu.Past.Retire()}
			future := planCalls{Callers: m.Version, Nodes: cu.From, Object: "future"}
			if err := errors.Join(past.fill(b, cu, cu.Past), future.fill(b, cu, cu.Future)); err != nil {
				return nil, err
			}
			p.Calls = append(p.Calls, past, future)
		}
		r.Classes = append(r.Classes, p)
	}
	onlyForward := slices.DeleteFunc(slices.Sorted(maps.Keys(m.Classes)), func(c bundle.Class) bool { return m.Classes[c].Transform.Reverse != nil })
	for i := range r.Classes {
		if p := &r.Classes[i]; p.Reverse != nil && len(onlyForward) > 0 {
			p.Transform += fmt.Sprintf(", until a node of class %s is at it", onlyForward[0])
		}
	}
	return r, nil
}

// fill completes p by the simulation s of class upgrade cu.
func (p *planCalls) fill(b *archive.Bundle, cu bundle.ClassUpgrade, s bundle.Simulation) error {
	p.Kind, p.Reason, p.Exec, p.Observe, p.Bytes = s.Kind, s.Reason, s.Exec, s.Observe, s.Wasm.Length
	switch s.Kind {
	case bundle.SimulateCompatible:
		p.Fate = fateCompatible
		return nil
	case bundle.SimulateRefuse:
		p.Fate = fateRefused
		return nil
	}
	p.Fate = fateSimulated
	if s.Kind == bundle.SimulateExec {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(cu.Services)) {
		if cu.Services[name].Protocol != bundle.ProtocolHTTP {
			p.NotHTTP = append(p.NotHTTP, name)
		}
	}
	if s.Kind != bundle.SimulateRules {
		return nil
	}
	data, err := readPlanned(b, s.Rules)
	if err != nil {
		return err
	}
	if p.Rules, err = outlineRules(data, p.Object+".hcl"); err != nil {
		return fmt.Errorf("the %s rules of release %d: %w", p.Object, b.Head().Version, err)
	}
	return nil
}

// readPlanned reads a blob of the bundle, which has been checked.
func readPlanned(b *archive.Bundle, c bundle.Chunk) ([]byte, error) {
	r, ok := b.Blob(c.Digest)
	if !ok {
		return nil, fmt.Errorf("the bundle lacks %s", c.Digest.Short())
	}
	data, err := io.ReadAll(io.LimitReader(r, bundle.MaxRulesBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s from the bundle: %w", c.Digest.Short(), err)
	}
	return data, nil
}

func transformWords(cu bundle.ClassUpgrade) string {
	t := cu.Transform
	switch {
	case cu.From == 0:
		return "none: the class is installed, its nodes start without state"
	case len(t.Exec) == 0:
		return "the state is copied as it is; " + reverseWords(t)
	}
	words := fmt.Sprintf("by %s, in at most %s", strings.Join(t.Exec, " "), t.Timeout)
	if cu.Future.Stateful() {
		words += "; it reads the future object's state"
	}
	if cu.Past.Stateful() {
		words += "; it makes the past object's first state"
	}
	return words + "; " + reverseWords(t)
}

// reverseWords says whether there is a way back.
func reverseWords(t bundle.Transform) string {
	switch {
	case t.Reverse == nil:
		return "once callers are let in, nothing takes it back"
	case len(t.Reverse.Exec) == 0:
		return "it can be taken back: the state is copied"
	}
	return "it can be taken back, by " + strings.Join(t.Reverse.Exec, " ")
}

// scheduleWords says how the nodes of a class go.
func scheduleWords(s bundle.ScheduleSpec) string {
	var parts []string
	switch s.Strategy {
	case bundle.StrategyAtOnce:
		parts = append(parts, "at once: every node as soon as it has the software, however many are down")
	case bundle.StrategyRandom:
		parts = append(parts, fmt.Sprintf("at random: about %d nodes in an hour, however many are down", s.Rate))
	case bundle.StrategyManual:
		parts = append(parts, fmt.Sprintf("by hand: each node when `moult start` names it, at most %s down", s.MaxUnavailable))
	default:
		parts = append(parts, fmt.Sprintf("%s: at most %s of the nodes down", s.Strategy, s.MaxUnavailable))
		if !strings.HasSuffix(s.MaxUnavailable, "%") {
			parts[0] = fmt.Sprintf("%s: at most %s down", s.Strategy, s.MaxUnavailable)
		}
	}
	if s.Canary > 0 {
		parts = append(parts, fmt.Sprintf("the first %d alone, watched for %s", s.Canary, s.Soak))
	}
	if len(s.Waves) > 0 {
		parts = append(parts, "in waves: "+waveWords(s.Waves))
	}
	if s.Spread != nil {
		parts = append(parts, fmt.Sprintf("of those that share a %s at most %d down", s.Spread.Label, s.Spread.Max))
	}
	if len(s.After) > 0 {
		parts = append(parts, fmt.Sprintf("after %s has settled", classNames(s.After)))
	}
	if len(s.Windows) > 0 {
		parts = append(parts, windowWords(s.Windows, time.Now()))
	}
	if s.When != "" {
		parts = append(parts, "only when "+words(s.When))
	}
	if s.HoldIf != "" {
		parts = append(parts, "held while "+words(s.HoldIf))
	}
	if s.FailureMax > 0 {
		parts = append(parts, fmt.Sprintf("%d failed stop it", s.FailureMax))
	}
	parts = append(parts, fmt.Sprintf("calls wait up to %s for their node", s.HoldTimeout))
	return strings.Join(parts, "; ")
}

// words is a condition on one line.
func words(condition string) string { return strings.Join(strings.Fields(condition), " ") }

// waveWords says which nodes go one wave after the other.
func waveWords(waves []bundle.Wave) string {
	var words []string
	for _, w := range waves {
		var word string
		switch {
		case w.Count > 0:
			word = fmt.Sprintf("%d of them", w.Count)
		case w.Percent > 0:
			word = fmt.Sprintf("up to %d %%", w.Percent)
		case w.Each != "":
			word = fmt.Sprintf("one %s after the other", w.Each)
		default:
			var labels []string
			for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
				labels = append(labels, k+"="+w.Labels[k])
			}
			word = "those with " + strings.Join(labels, " and ")
		}
		if w.Soak > 0 {
			word += fmt.Sprintf(", watched for %s", w.Soak)
		}
		words = append(words, word)
	}
	return strings.Join(words, "; then ")
}

func classNames(classes []bundle.Class) string {
	var words []string
	for _, c := range classes {
		words = append(words, string(c))
	}
	return strings.Join(words, ", ")
}

// windowWords says when nodes may go down, and when that begins, by the windows' clocks and
// by this machine's.
func windowWords(windows []bundle.Window, now time.Time) string {
	var all []string
	for _, w := range windows {
		all = append(all, schedule.WindowText(w))
	}
	words := "only " + strings.Join(all, " or ")
	open, next, err := schedule.Open(windows, now, time.LoadLocation)
	switch {
	case open:
		return words + " (open now)"
	case err != nil:
		return fmt.Sprintf("%s (%v)", words, err)
	}
	return fmt.Sprintf("%s (next %s, which is %s here)", words, next.Format("Mon 2006-01-02 15:04 MST"), next.Local().Format("Mon 15:04 MST"))
}

// words says in one line what becomes of the calls.
func (p planCalls) words() string {
	switch p.Fate {
	case fateCompatible:
		return "pass as they are: the versions are compatible"
	case fateRefused:
		return "refused: " + p.Reason
	}
	var s string
	switch p.Kind {
	case bundle.SimulateRules:
		s = "simulated by " + p.Rules.words()
	case bundle.SimulateWasm:
		s = fmt.Sprintf("simulated by a wasm module of %d bytes", p.Bytes)
	default:
		s = "simulated by " + strings.Join(p.Exec, " ")
	}
	if p.Observe {
		s += "; it sees the nodes' own calls too, which are relayed for that"
	}
	if len(p.NotHTTP) > 0 {
		s += "; refused at " + strings.Join(p.NotHTTP, ", ") + ", which do not speak http"
	}
	return s
}

package build

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"moult/store/bundle"
)

func (d *decoder) schedule(s *scheduleSchema) bundle.ScheduleSpec {
	out := bundle.ScheduleSpec{
		Strategy:       bundle.StrategyRolling,
		MaxUnavailable: defaultMaxUnavailable,
		FailureMax:     defaultFailureMax,
		HoldTimeout:    defaultHoldTimeout,
	}
	if s == nil {
		return out
	}
	out.Windows = d.windows(s.Windows)
	for _, class := range d.texts(s.After, `a list of classes, such as ["auth"]`, bundle.MaxClasses) {
		out.After = append(out.After, bundle.Class(class))
	}
	slices.Sort(out.After)
	out.Strategy = d.strategy(s.Strategy)
	if s.MaxUnavailable != nil {
		out.MaxUnavailable = d.maxUnavailable(s.MaxUnavailable)
	}
	if out.Strategy == bundle.StrategyAtOnce || out.Strategy == bundle.StrategyRandom {
		out.MaxUnavailable = ""
		if s.MaxUnavailable != nil {
			d.fail(s.MaxUnavailable.NameRange, "Needless max_unavailable", "The strategy %s bounds nothing: the others are not asked whether they are down.", out.Strategy)
		}
	}
	switch random := out.Strategy == bundle.StrategyRandom; {
	case random && d.required(s.Rate, s.At, "rate", "rate = 10 (nodes in an hour, about)"):
		out.Rate = int(d.number(s.Rate, 1, bundle.MaxRate))
	case !random && s.Rate != nil:
		d.fail(s.Rate.NameRange, "Needless rate", "Only the strategy random goes by a rate.")
	}
	d.waves(s.Waves, &out)
	d.spread(s, &out)
	if out.Strategy == bundle.StrategyRolling && out.MaxUnavailable == "100%" && out.Canary == 0 && len(out.Waves) == 0 && out.Spread == nil {
		d.fail(s.MaxUnavailable.Expr.Range(), "No bound", `All of the class may be down at once: write strategy = "at-once" where that is meant, and less where it is not.`)
	}
	if f := s.OnFailure; f != nil {
		if f.Max != nil {
			out.FailureMax = int(d.number(f.Max, 0, bundle.MaxFailures))
		}
		if then, ok := d.text(f.Then); ok && then != "hold" {
			d.later(f.Then.Expr.Range(), "any other then", `Write: then = "hold"`)
		}
	}
	if out.ProgressDeadline = d.duration(s.Progress, 0, bundle.MinProgress, bundle.MaxProgress); s.Progress != nil && out.ProgressDeadline <= out.LongestSoak() {
		d.fail(s.Progress.Expr.Range(), "Too short a deadline", "While a soak of %s lasts nobody settles: progress_deadline wants more than that.", out.LongestSoak())
	} else if s.Progress != nil && out.Rate > 0 && out.ProgressDeadline < bundle.RandomPause(out.Rate) {
		d.fail(s.Progress.Expr.Range(), "Too short a deadline", "At a rate of %d in an hour no node may go for %s by chance alone: progress_deadline wants that at least, or a higher rate.", out.Rate, bundle.RandomPause(out.Rate))
	}
	out.HoldTimeout = d.duration(s.HoldTimeout, defaultHoldTimeout, 0, bundle.MaxHoldTimeout)
	return out
}

func (d *decoder) strategy(a *hcl.Attribute) string {
	s, ok := d.text(a)
	if !ok {
		return bundle.StrategyRolling
	}
	switch s {
	case bundle.StrategyRolling, bundle.StrategyAtOnce, bundle.StrategyManual, bundle.StrategyRandom:
		return s
	default:
		d.fail(a.Expr.Range(), "Unknown strategy", "Here strategy wants %q, %q, %q or %q.", bundle.StrategyRolling, bundle.StrategyAtOnce, bundle.StrategyManual, bundle.StrategyRandom)
	}
	return bundle.StrategyRolling
}

func (d *decoder) maxUnavailable(a *hcl.Attribute) string {
	const want = `a number of nodes such as 2, or a share of them such as "10%"`
	v, ok := d.value(a, want, cty.String, cty.Number)
	if !ok {
		return defaultMaxUnavailable
	}
	if v.Type() == cty.Number {
		return strconv.FormatInt(max(1, d.number(a, 1, bundle.MaxFailures)), 10)
	}
	s := v.AsString()
	if !bundle.ValidUnavailable(s) {
		d.fail(a.Expr.Range(), "Out of range", "Here max_unavailable wants %s, at least 1.", want)
		return defaultMaxUnavailable
	}
	return s
}

// waves decodes the waves: one of count = N is the canary; more, and others, are waves. A
// last one of percent = 100 without a soak is what comes after the others anyway.
func (d *decoder) waves(waves []waveSchema, out *bundle.ScheduleSpec) {
	if len(waves) > bundle.MaxWaves {
		d.fail(waves[bundle.MaxWaves].At, "Too many waves", "A schedule has at most %d of them.", bundle.MaxWaves)
		return
	}
	share := 0
	for i := range waves {
		w, last := d.wave(&waves[i]), i == len(waves)-1
		switch {
		case w.Percent == 100 && w.Soak == 0 && last:
		case w.Percent > 0 && w.Percent <= share:
			d.fail(waves[i].Percent.Expr.Range(), "Needless wave", "So large a share of the class has gone before: percent counts from its first node, and wants more than %d here.", share)
		case out.Strategy != bundle.StrategyRolling:
			d.fail(waves[i].At, "Needless wave", "Only the strategy rolling ranks the nodes, and so has waves.")
		case w.Percent == 100 && !last:
			d.fail(waves[i+1].At, "Needless wave", "The wave before it has all nodes that are left.")
		default:
			out.Waves = append(out.Waves, w)
		}
		share = max(share, w.Percent)
	}
	if len(out.Waves) == 1 && out.Waves[0].Count > 0 { // which an older moult can read
		out.Canary, out.Soak, out.Waves = out.Waves[0].Count, out.Waves[0].Soak, nil
	}
}

func (d *decoder) wave(s *waveSchema) (w bundle.Wave) {
	kinds := 0
	for _, a := range []*hcl.Attribute{s.Count, s.Percent, s.Labels, s.Each} {
		if a != nil {
			kinds++
		}
	}
	if kinds != 1 {
		d.fail(s.At, "Bad wave", "A wave has one of count = 5 (so many nodes), percent = 25 (until so many of a hundred have gone), labels = { zone = \"a\" } (those that have them) and each = \"zone\" (one value after the other), and perhaps soak.")
		return w
	}
	switch {
	case s.Count != nil:
		w.Count = int(d.number(s.Count, 1, bundle.MaxCanary))
	case s.Percent != nil:
		w.Percent = int(d.number(s.Percent, 1, 100))
	case s.Labels != nil:
		w.Labels = d.labels(s.Labels)
	default:
		w.Each = d.labelName(s.Each)
	}
	w.Soak = d.duration(s.Soak, 0, 0, bundle.MaxSoak)
	return w
}

// labelName decodes the name of a label.
func (d *decoder) labelName(a *hcl.Attribute) string {
	s, ok := d.text(a)
	if ok && !bundle.ValidLabel(s) {
		d.fail(a.Expr.Range(), "Bad label", "Here %s wants the name of a label that nodes have in agent.hcl: 1 to %d bytes.", a.Name, bundle.MaxLabelBytes)
	}
	return s
}

func (d *decoder) labels(a *hcl.Attribute) map[string]string {
	v, diags := a.Expr.Value(nil)
	if diags.HasErrors() {
		d.diags = append(d.diags, diags...)
		return nil
	}
	labels := map[string]string{}
	bad := v.IsNull() || !v.IsWhollyKnown() || !v.Type().IsObjectType() || v.LengthInt() == 0 || v.LengthInt() > bundle.MaxWaveLabels
	if !bad {
		for name, e := range v.AsValueMap() {
			bad = bad || e.IsNull() || e.Type() != cty.String || !bundle.ValidLabel(name) || !bundle.ValidLabel(e.AsString())
			if !bad {
				labels[name] = e.AsString()
			}
		}
	}
	if bad {
		d.fail(a.Expr.Range(), "Wrong type", `Here labels wants the labels that a node of the wave has, such as { zone = "a" }: 1 to %d of them.`, bundle.MaxWaveLabels)
	}
	return labels
}

// spread decodes the second bound.
func (d *decoder) spread(s *scheduleSchema, out *bundle.ScheduleSpec) {
	switch {
	case s.Spread == nil && s.SpreadMax == nil:
	case out.Strategy == bundle.StrategyAtOnce || out.Strategy == bundle.StrategyRandom:
		d.fail(cmp.Or(s.Spread, s.SpreadMax).NameRange, "Needless spread", "The strategy %s bounds nothing: the others are not asked whether they are down.", out.Strategy)
	case s.Spread == nil:
		d.fail(s.SpreadMax.NameRange, "Needless spread_max", `It bounds how many may be down of those that share a value of a label: say which, as in spread = "zone".`)
	default:
		out.Spread = &bundle.Spread{Label: d.labelName(s.Spread), Max: 1}
		if s.SpreadMax != nil {
			out.Spread.Max = int(d.number(s.SpreadMax, 1, bundle.MaxFailures))
		}
	}
}

func (d *decoder) windows(windows []windowSchema) (out []bundle.Window) {
	if len(windows) > bundle.MaxWindows {
		d.fail(windows[bundle.MaxWindows].At, "Too many windows", "A schedule has at most %d of them.", bundle.MaxWindows)
		return nil
	}
	for i := range windows {
		if w, ok := d.window(&windows[i]); ok {
			out = append(out, w)
		}
	}
	return out
}

func (d *decoder) window(s *windowSchema) (w bundle.Window, ok bool) {
	there := d.required(s.Start, s.At, "start", `start = "02:00"`)
	there = d.required(s.Length, s.At, "length", `length = "4h"`) && there
	// The zone has no default: what the author's machine thinks is not what a node's does.
	there = d.required(s.Timezone, s.At, "timezone", `timezone = "Europe/Zurich"`) && there
	if !there {
		return w, false
	}
	before := len(d.diags)
	days := fmt.Sprintf("a list of days, of %q", bundle.Weekdays)
	named := map[string]bool{}
	for _, day := range d.texts(s.Days, days, len(bundle.Weekdays)) {
		if !slices.Contains(bundle.Weekdays[:], day) || named[day] {
			d.fail(s.Days.Expr.Range(), "Bad days", "%.40q: here days wants %s, each once.", day, days)
		}
		named[day] = true
	}
	for _, day := range bundle.Weekdays {
		if named[day] && len(named) < len(bundle.Weekdays) { // all of them are none
			w.Days = append(w.Days, day)
		}
	}
	w.Start, _ = d.text(s.Start)
	if !bundle.ValidStart(w.Start) {
		d.fail(s.Start.Expr.Range(), "Bad time", `Here start wants hours and minutes, from "00:00" to "23:59".`)
	}
	w.Length = d.duration(s.Length, bundle.MinWindow, bundle.MinWindow, bundle.MaxWindow)
	w.Timezone, _ = d.text(s.Timezone)
	if _, err := time.LoadLocation(w.Timezone); err != nil || !bundle.ValidZone(w.Timezone) {
		d.fail(s.Timezone.Expr.Range(), "Unknown time zone", `%.80q: here timezone wants a name of the IANA time zone database, such as "Europe/Zurich", or "UTC".`, w.Timezone)
	}
	return w, len(d.diags) == before
}

// after checks which classes settle first, once all are known.
func (d *decoder) after(classes []classSchema, specs []ClassSpec) {
	upgrades := map[bundle.Class]bundle.ClassUpgrade{}
	for _, s := range specs {
		upgrades[s.Name] = s.Upgrade
	}
	for i := range classes {
		c := &classes[i]
		if c.Schedule == nil || c.Schedule.After == nil {
			continue
		}
		name, at := bundle.Class(c.Name), c.Schedule.After.Expr.Range()
		after := upgrades[name].Schedule.After
		for j, other := range after {
			if _, ok := upgrades[other]; !ok {
				d.fail(at, "Unknown class", "%.40q is no class of this release, which upgrades %q: only those settle in it.", other, slices.Sorted(maps.Keys(upgrades)))
			}
			if j > 0 && after[j-1] == other {
				d.fail(at, "Duplicate class", "%.40q is there twice.", other)
			}
		}
		if bundle.WaitsFor(upgrades, name, name) {
			d.fail(at, "Circle of classes", "%q waits for itself, by what settles before it: none of them would ever begin.", name)
		}
	}
}

package schedule

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"moult/gossip/view"
	"moult/store/bundle"
)

// script is the state of one file in testdata.
type script struct {
	names   map[bundle.NodeID]string
	records map[bundle.NodeID]view.Record
	order   *Order
}

func idOf(name string) bundle.NodeID { return sha256.Sum256([]byte(name)) }

func (s *script) id(name string) bundle.NodeID {
	id := idOf(name)
	s.names[id] = name
	return id
}

func (s *script) lookup(id bundle.NodeID) (view.Record, bool) {
	rec, ok := s.records[id]
	return rec, ok
}

// TestScripts runs testdata/*: rollouts as an operator sees them. Rewrite the
// expected output with `go test ./agent/schedule -rewrite`, and read the diff.
//
//	order release=N [previous=true] [class=…] [strategy=…] [k=…] [canary=…] [soak=…] [failures=…] nodes=(…) [unreachable=(…)] [left=(…)]
//	  [waves=(count:N/SOAK,percent:N,each:LABEL,LABEL:VALUE)] [spread=LABEL/MAX] [rate=N] [labels=(NODE/LABEL:VALUE)]
//	  [window=(DAY+DAY,START,LENGTH,ZONE)] [when=WORD] [hold_if=WORD] [after=auth auth=(…)], which makes it release for class auth, too
//	place roster=(…): sets the roster of class kv, so that a script can say who is first
//	record NODE [version=…] [phase=…] [obeys=…] [ended=RELEASE/COUNT] [held]
//	  [health=…] [soaked=…] [failed=RELEASE/PLACES]
//	  [rehearsed=RELEASE/OUTCOME] [turned=RELEASE/TURN/DONE/ENDED]; many lines in the input
//	pause, resume, abort, revert [at=(…)], who is at the release; again; skip, retry, start, now NODE; budget k=…; forget NODE [number=…]
//	withdraw first=… last=…; obstacles first=… number=… [unreachable=(…)]
//	decide NODE [not-synced] [expired] [conflict] [settled=…] [unreachable=(…)] [now=2026-12-05T01:00:00Z]
//	  [yes=(WORD,…)] [no=(WORD,…)], what conditions say
//	summary
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{names: map[bundle.NodeID]string{}, records: map[bundle.NodeID]view.Record{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(t, d) })
	})
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "order":
		return s.instantiate(t, d)
	case "place":
		c := s.order.Classes["kv"]
		c.Roster, c.Skipped = nil, nil
		for _, name := range names(d, "roster") {
			c.Roster = append(c.Roster, s.id(name))
		}
		s.order.Classes["kv"] = c
		return s.show()
	case "record":
		for line := range strings.Lines(d.Input) {
			s.record(t, d, strings.Fields(line))
		}
		return ""
	case "decide":
		return s.decide(d, Decide)
	case "may_rehearse":
		return s.decide(d, MayRehearse)
	case "summary":
		return s.summary()
	case "obstacles":
		return s.obstacles(t, d)
	}
	return s.change(t, d)
}

func names(d *datadriven.TestData, key string) []string {
	for _, arg := range d.CmdArgs {
		if arg.Key == key {
			return arg.Vals
		}
	}
	return nil
}

func (s *script) instantiate(t *testing.T, d *datadriven.TestData) string {
	var release, canary, failures int
	strategy, soak, class := bundle.StrategyRolling, "0s", "kv"
	budget := "1"
	d.ScanArgs(t, "release", &release)
	d.MaybeScanArgs(t, "k", &budget)
	d.MaybeScanArgs(t, "canary", &canary)
	d.MaybeScanArgs(t, "failures", &failures)
	d.MaybeScanArgs(t, "strategy", &strategy)
	d.MaybeScanArgs(t, "soak", &soak)
	d.MaybeScanArgs(t, "class", &class)
	wait, err := time.ParseDuration(soak)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	m := &bundle.Manifest{Version: bundle.Version(release), Classes: map[bundle.Class]bundle.ClassUpgrade{bundle.Class(class): {
		Schedule: bundle.ScheduleSpec{Strategy: strategy, MaxUnavailable: budget, Canary: canary, Soak: bundle.Duration(wait), FailureMax: failures},
	}}}
	spec := m.Classes[bundle.Class(class)]
	if w := names(d, "window"); w != nil {
		length, err := time.ParseDuration(w[2])
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		one := bundle.Window{Start: w[1], Length: bundle.Duration(length), Timezone: w[3]}
		if w[0] != "always" {
			one.Days = strings.Split(w[0], "+")
		}
		spec.Schedule.Windows = []bundle.Window{one}
	}
	if when := names(d, "when"); when != nil {
		spec.Schedule.When = when[0]
	}
	if holdIf := names(d, "hold_if"); holdIf != nil {
		spec.Schedule.HoldIf = holdIf[0]
	}
	d.MaybeScanArgs(t, "rate", &spec.Schedule.Rate)
	for _, text := range names(d, "waves") {
		spec.Schedule.Waves = append(spec.Schedule.Waves, waveOf(t, d, text))
	}
	for _, text := range names(d, "spread") {
		label, most, _ := strings.Cut(text, "/")
		n, _ := strconv.Atoi(most)
		spec.Schedule.Spread = &bundle.Spread{Label: label, Max: n}
	}
	labels := map[string]map[string]string{}
	for _, text := range names(d, "labels") {
		name, label, _ := strings.Cut(text, "/")
		k, v, _ := strings.Cut(label, ":")
		labels[name] = map[string]string{k: v}
	}
	var nodes []Candidate
	for _, name := range names(d, "auth") {
		nodes = append(nodes, Candidate{ID: s.id(name), Class: "auth", Reachable: true})
	}
	if after := names(d, "after"); after != nil {
		spec.Schedule.After = []bundle.Class{bundle.Class(after[0])}
		m.Classes["auth"] = bundle.ClassUpgrade{Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1"}}
	}
	m.Classes[bundle.Class(class)] = spec
	for _, name := range names(d, "nodes") {
		nodes = append(nodes, Candidate{ID: s.id(name), Class: "kv", Reachable: true, Labels: labels[name]})
	}
	for _, name := range names(d, "unreachable") {
		nodes = append(nodes, Candidate{ID: s.id(name), Class: "kv", Labels: labels[name]})
	}
	for _, name := range names(d, "left") { // after they had settled
		c := Candidate{ID: s.id(name), Class: "kv", Left: true}
		if s.order != nil {
			c.Version = s.order.Release
		}
		nodes = append(nodes, c)
	}
	for _, name := range names(d, "left_early") {
		nodes = append(nodes, Candidate{ID: s.id(name), Class: "kv", Left: true})
	}
	if !d.HasArg("previous") {
		s.order = nil
	}
	o, err := Instantiate(m, bundle.Sum([]byte{byte(release)}), s.order, nodes)
	if err != nil {
		return "error: " + err.Error()
	}
	s.order = o
	return s.show()
}

func waveOf(t *testing.T, d *datadriven.TestData, text string) (w bundle.Wave) {
	what, soak, _ := strings.Cut(text, "/")
	key, value, _ := strings.Cut(what, ":")
	n, _ := strconv.Atoi(value)
	switch key {
	case "count":
		w.Count = n
	case "percent":
		w.Percent = n
	case "each":
		w.Each = value
	default:
		w.Labels = map[string]string{key: value}
	}
	if soak != "" {
		lasts, err := time.ParseDuration(soak)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		w.Soak = bundle.Duration(lasts)
	}
	return w
}

// show prints the order as names, and checks that its bytes carry it.
func (s *script) show() string {
	data, err := MarshalOrder(s.order)
	if err != nil {
		return "error: " + err.Error()
	}
	back, err := ParseOrder(data)
	if err != nil {
		return "error: " + err.Error()
	}
	if again, err := MarshalOrder(back); err != nil || !bytes.Equal(again, data) {
		return fmt.Sprintf("error: the order does not survive its own bytes: %v", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "release %d after %d, serial %d, %s\n", s.order.Release, s.order.Previous, s.order.Serial, s.order.State)
	for _, class := range slices.Sorted(maps.Keys(s.order.Classes)) {
		c := s.order.Classes[class]
		fmt.Fprintf(&b, "%s: %s, at most %d down, canaries %d for %s, stops at %d failures\n", class, c.Strategy, c.MaxUnavailable, c.Canary, c.Soak, c.FailureMax)
		for _, w := range c.Windows {
			fmt.Fprintf(&b, "  %s\n", WindowText(w))
		}
		if len(c.After) > 0 {
			fmt.Fprintf(&b, "  after %s\n", c.After)
		}
		if c.When != "" || c.HoldIf != "" {
			fmt.Fprintf(&b, "  when %q, hold if %q\n", c.When, c.HoldIf)
		}
		for _, w := range c.Waves {
			fmt.Fprintf(&b, "  wave up to %d, for %s\n", w.UpTo, w.Soak)
		}
		skipped := c.isSkipped()
		for i, id := range c.Roster {
			fmt.Fprintf(&b, "  %s", s.names[id])
			if c.Spread != nil && c.Spread.Of[i] > 0 {
				fmt.Fprintf(&b, " %s=%s", c.Spread.Label, c.Spread.Values[c.Spread.Of[i]-1])
			}
			if skipped[i] {
				b.WriteString(" skipped")
			}
			if at := slices.Index(c.Started, i); at >= 0 {
				fmt.Fprintf(&b, " started %d", at)
			}
			if slices.Contains(c.Now, i) {
				b.WriteString(" now")
			}
			b.WriteString("\n")
		}
	}
	for _, w := range s.order.Withdrawn {
		fmt.Fprintf(&b, "withdrawn %s %d to %d\n", w.Class, w.First, w.Last)
	}
	for _, f := range s.order.Forgotten {
		fmt.Fprintf(&b, "forgotten %s up to %d\n", s.names[f.Node], f.UpTo)
	}
	return b.String()
}

func (s *script) record(t *testing.T, d *datadriven.TestData, words []string) {
	if len(words) == 0 {
		return
	}
	id := s.id(words[0])
	rec := view.Record{Node: id, Name: words[0], Class: "kv", Phase: "current", Reads: view.ReadsRehearsals}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "version":
			rec.Version = bundle.Version(n)
		case "target":
			rec.Target = bundle.Version(n)
		case "phase":
			rec.Phase = view.Phase(strings.ReplaceAll(value, "_", " "))
		case "obeys":
			rec.Obeys = bundle.Version(n)
		case "left":
			rec.Left = true
		case "running":
			rec.Running = bundle.Version(n)
		case "number":
			rec.Trust.Timestamp = int64(n)
		case "held":
			rec.Held, rec.Phase = true, "held"
		case "ended":
			if _, err := fmt.Sscanf(value, "%d/%d", &rec.Ended.Release, &rec.Ended.Count); err != nil {
				d.Fatalf(t, "%s: %v", word, err)
			}
		case "turned":
			var done int
			if _, err := fmt.Sscanf(value, "%d/%d/%d/%d", &rec.Turned.Release, &rec.Turned.Turn, &done, &rec.Turned.Ended); err != nil {
				d.Fatalf(t, "%s: %v", word, err)
			}
			rec.Turned.Done = done > 0
		case "health":
			rec.Health.State, rec.Health.Reason = view.HealthState(strings.ReplaceAll(value, "_", " ")), "…"
		case "soaked":
			rec.Health.Soaked = bundle.Version(n)
		case "failed":
			if _, err := fmt.Sscanf(value, "%d/%d", &rec.Health.Failed.Release, &rec.Health.Failed.Count); err != nil {
				d.Fatalf(t, "%s: %v", word, err)
			}
		case "rehearsed":
			release, outcome, _ := strings.Cut(value, "/")
			v, err := strconv.ParseUint(release, 10, 64)
			if err != nil {
				d.Fatalf(t, "%s: %v", word, err)
			}
			rec.Rehearsed = view.Rehearsal{Release: bundle.Version(v), Outcome: view.Outcome(outcome)}
		case "unknown":
			delete(s.records, id)
			return
		default:
			d.Fatalf(t, "%s?", word)
		}
	}
	s.records[id] = rec
}

func (s *script) decide(d *datadriven.TestData, rule func(Input) Decision) string {
	in := Input{
		Self: s.id(d.CmdArgs[0].Key), Class: "kv", Order: s.order, Lookup: s.lookup,
		Synced: !d.HasArg("not-synced"), Expired: d.HasArg("expired"), Conflict: d.HasArg("conflict"),
	}
	in.Zone = time.LoadLocation
	if now := names(d, "now"); now != nil {
		in.Now, _ = time.Parse(time.RFC3339, strings.Join(now, ""))
	}
	if settled := names(d, "settled"); settled != nil {
		in.SettledFor = func(bundle.NodeID) time.Duration {
			since, _ := time.ParseDuration(settled[0])
			return since
		}
	}
	if gone := names(d, "unreachable"); gone != nil {
		in.Reachable = func(id bundle.NodeID) bool { return !slices.Contains(gone, s.names[id]) }
	}
	in.Ask = func(_ bundle.Class, _ bundle.NodeID, condition string) Said {
		switch {
		case slices.Contains(names(d, "yes"), condition):
			return Said{AnswerYes, condition + " is 1"}
		case slices.Contains(names(d, "no"), condition):
			return Said{AnswerNo, condition + " is 0"}
		}
		return Said{Text: condition + " has no value"}
	}
	dec := rule(in)
	var b strings.Builder
	fmt.Fprintf(&b, "go=%t %s: %s\n", dec.Go, dec.Reason.Code, dec.Reason.Text)
	if dec.Reason.Note != "" {
		fmt.Fprintf(&b, "note: %s\n", dec.Reason.Note)
	}
	if dec.Reason.Command != "" {
		fmt.Fprintf(&b, "command: %s\n", dec.Reason.Command)
	}
	if dec.Reason.Retry != 0 {
		fmt.Fprintf(&b, "ask again after %s\n", dec.Reason.Retry)
	}
	return b.String()
}

func (s *script) summary() string {
	r := Summary(s.order, s.lookup)
	var b strings.Builder
	fmt.Fprintf(&b, "%s", r.State)
	if r.Reason != "" {
		fmt.Fprintf(&b, ": %s", r.Reason)
	}
	b.WriteString("\n")
	for _, class := range slices.Sorted(maps.Keys(r.Classes)) {
		p := r.Classes[class]
		if p.Settled+p.Unwell+p.Down+p.Held+p.Waiting+p.Skipped != p.Total {
			b.WriteString("the counts do not add up\n")
		}
		fmt.Fprintf(&b, "%s: %+v\n", class, p)
	}
	return b.String()
}

func scanned(t *testing.T, d *datadriven.TestData, key string) bundle.Version {
	var n uint64
	d.ScanArgs(t, key, &n)
	return bundle.Version(n)
}

func (s *script) obstacles(t *testing.T, d *datadriven.TestData) string {
	var nodes []view.Record
	for _, name := range slices.Sorted(maps.Values(s.names)) {
		if r, ok := s.records[idOf(name)]; ok {
			nodes = append(nodes, r)
		}
	}
	reachable := func(id bundle.NodeID) bool { return !slices.Contains(names(d, "unreachable"), s.names[id]) }
	var b strings.Builder
	for _, o := range Obstacles(s.order, "kv", scanned(t, d, "first"), int64(scanned(t, d, "number")), nodes, reachable) {
		fmt.Fprintf(&b, "%s there=%t: %s\n", s.names[o.Node], o.There, o.Text)
	}
	return b.String()
}

func (s *script) change(t *testing.T, d *datadriven.TestData) string {
	var next *Order
	var err error
	var id bundle.NodeID
	if len(d.CmdArgs) > 0 && len(d.CmdArgs[0].Vals) == 0 {
		id = s.id(d.CmdArgs[0].Key)
	}
	switch d.Cmd {
	case "pause":
		next, err = s.order.Pause()
	case "resume":
		next, err = s.order.Resume()
	case "abort":
		next, err = s.order.Abort()
	case "skip":
		next, err = s.order.Skip("kv", id)
	case "retry":
		next, err = s.order.Retry("kv", id)
	case "start":
		next, err = s.order.Start("kv", id)
	case "now":
		next, err = s.order.Now("kv", id)
	case "forget":
		var number uint64
		d.MaybeScanArgs(t, "number", &number)
		next, err = s.order.Forget(id, number)
	case "withdraw":
		first, last := scanned(t, d, "first"), scanned(t, d, "last")
		next, err = s.order.Withdraw("kv", first, last)
	case "revert":
		var there []Candidate
		for _, name := range names(d, "at") {
			there = append(there, Candidate{ID: s.id(name), Class: "kv", Version: s.order.Release, Reachable: true})
		}
		next, err = s.order.Revert(there)
	case "again":
		next, err = s.order.Again(nil)
	case "budget":
		var k int
		d.ScanArgs(t, "k", &k)
		next, err = s.order.SetBudget("kv", k)
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	if err != nil {
		return "error: " + err.Error()
	}
	if err := Successor(s.order, next); err != nil {
		return "error: " + err.Error()
	}
	s.order = next
	return s.show()
}

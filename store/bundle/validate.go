package bundle

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	namePattern        = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	platformPattern    = regexp.MustCompile(`^[a-z0-9]{1,16}$`)
	unavailablePattern = regexp.MustCompile(`^([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)$`)
)

// ValidName reports whether s may name a class or a service: a lower-case
// letter, then at most 31 lower-case letters, digits and hyphens. Names appear
// in file names, host names and signed documents.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// ValidUnavailable reports whether s is a budget: a count such as "2", or a share such as "10%".
func ValidUnavailable(s string) bool { return unavailablePattern.MatchString(s) }

// Validate reports every problem of m, up to a bound, each with the path of
// its field as in the JSON ("classes.kv.health.interval"). The error is
// ErrInvalid for errors.Is.
func (m *Manifest) Validate() error {
	v := &validator{lengths: map[Digest]int64{}}
	v.manifest(m)
	if len(v.problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w of release %d: %w", ErrInvalid, m.Version, errors.Join(v.problems...))
}

// validator collects problems. lengths remembers the length of every blob
// named so far: fetching goes by digest, so one digest must have one length.
type validator struct {
	problems []error
	lengths  map[Digest]int64
}

// fail adds a problem of the field at path, if bad.
func (v *validator) fail(bad bool, path, format string, args ...any) {
	if bad && len(v.problems) < maxProblems {
		v.problems = append(v.problems, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	}
}

func (v *validator) manifest(m *Manifest) {
	// One release has one form, so it is written in no other than the lowest.
	lowest := m.LowestFormat()
	v.fail(m.Format != lowest, "format", "%d, want %d, the lowest that can say what the release says", m.Format, lowest)
	v.fail(m.Version < 1 || m.Version > MaxVersion, "version", "%d, want 1 to %d", m.Version, MaxVersion)
	v.fail(m.Version == 1 && !m.Previous.IsZero(), "previous", "%s, but nothing comes before release 1", m.Previous)
	if m.FinalizeAfter != 0 {
		v.duration("finalize_after", m.FinalizeAfter, MinFinalizeAfter, MaxFinalizeAfter)
	}
	v.fail(len(m.Classes) == 0 && m.Agent == nil, "classes", "none: a release changes at least one class, or the agents")
	v.fail(len(m.Classes) > MaxClasses, "classes", "%d of them, the most is %d", len(m.Classes), MaxClasses)
	for _, name := range slices.Sorted(maps.Keys(m.Classes)) {
		path := fmt.Sprintf("classes.%.40s", name)
		v.fail(!ValidName(string(name)), path, "%.80q is no name for a class: want %s", name, namePattern)
		c := m.Classes[name]
		v.class(path, m.Version, &c)
	}
	v.after(m.Classes)
	v.agent("agent", m.Agent)
}

func (v *validator) class(path string, version Version, c *ClassUpgrade) {
	v.fail(c.From >= version && version > 0, path+".from", "%d, want %d, less where what lies between is withdrawn, or 0 to install the class for the first time", c.From, version-1)
	v.artifacts(path+".artifacts", c.Artifacts)
	v.services(path+".services", c.Services)
	v.fail(len(c.Command) == 0, path+".command", "empty: it must start the software")
	v.argv(path+".command", c.Command, c)
	v.health(path+".health", c)
	v.fail(c.Placeholders && !c.needsPlaceholders(), path+".placeholders", "true, but what is said needs none: it is said by leaving it out")
	v.transform(path+".transform", c)
	v.rehearse(path+".rehearse", c)
	v.finalized(path+".finalized", c)
	v.hooks(path+".hooks", c)
	v.simulation(path+".past", c, &c.Past)
	v.fail(c.Past.Observe, path+".past.observe", "true, but only the future object stands beside software whose calls it could see")
	v.simulation(path+".future", c, &c.Future)
	v.fail(c.Future.RetireAfter != 0, path+".future.retire_after", "%s, but the future object goes when its node is upgraded", c.Future.RetireAfter)
	v.facts(path+".facts", c)
	v.schedule(path+".schedule", &c.Schedule)
}

func (v *validator) artifacts(path string, as []Artifact) {
	v.fail(len(as) == 0, path, "none: want one for each platform")
	v.fail(len(as) > MaxArtifacts, path, "%d of them, the most is %d", len(as), MaxArtifacts)
	for i := range as {
		a, path := &as[i], fmt.Sprintf("%s[%d]", path, i)
		v.fail(!platformPattern.MatchString(a.OS), path+".os", "%.40q, want Go's name of an operating system, such as linux", a.OS)
		v.fail(!platformPattern.MatchString(a.Arch), path+".arch", "%.40q, want Go's name of an architecture, such as amd64", a.Arch)
		if i > 0 {
			v.fail(as[i-1].Platform == a.Platform, path, "a second artifact for %s", a.Platform)
			v.fail(a.before(as[i-1].Platform), path, "%s comes after %s: want them sorted by os, then arch", a.Platform, as[i-1].Platform)
		}
		v.artifact(path, a)
	}
}

// before orders platforms in a manifest.
func (p Platform) before(q Platform) bool {
	return p.OS < q.OS || p.OS == q.OS && p.Arch < q.Arch
}

func (v *validator) artifact(path string, a *Artifact) {
	v.fail(a.Digest.IsZero(), path+".digest", "empty")
	v.fail(a.Length < 1 || a.Length > MaxArtifactBytes, path+".length", "%d bytes, want 1 to %d", a.Length, int64(MaxArtifactBytes))
	v.fail(len(a.Chunks) == 0, path+".chunks", "none")
	v.fail(len(a.Chunks) > MaxChunks, path+".chunks", "%d of them, the most is %d", len(a.Chunks), MaxChunks)
	var sum int64
	for i, c := range a.Chunks {
		// The sum cannot overflow: each term that counts is bounded.
		if v.blob(fmt.Sprintf("%s.chunks[%d]", path, i), c, MaxChunkBytes) {
			sum += c.Length
		}
		if len(v.problems) >= maxProblems {
			return
		}
	}
	v.fail(sum != a.Length, path+".chunks", "%d bytes together, but the artifact has %d", sum, a.Length)
	v.fail(len(a.Chunks) == 1 && a.Chunks[0].Digest != a.Digest, path+".chunks[0].digest", "it is the only chunk, so it must be the artifact's own digest %s", a.Digest)
}

// blob checks a reference to some bytes and reports whether its length may be used.
func (v *validator) blob(path string, c Chunk, most int64) bool {
	v.fail(c.Digest.IsZero(), path+".digest", "empty")
	if c.Length < 1 || c.Length > most {
		v.fail(true, path+".length", "%d bytes, want 1 to %d", c.Length, most)
		return false
	}
	known, seen := v.lengths[c.Digest]
	v.fail(seen && known != c.Length, path+".length", "%d bytes, but %s has %d bytes elsewhere in the manifest", c.Length, c.Digest, known)
	v.lengths[c.Digest] = c.Length
	return true
}

func (v *validator) services(path string, services map[string]Service) {
	v.fail(len(services) > MaxServices, path, "%d of them, the most is %d", len(services), MaxServices)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		path := fmt.Sprintf("%s.%.40s", path, name)
		v.fail(!ValidName(name), path, "%.80q is no name for a service: want %s", name, namePattern)
		p := services[name].Protocol
		v.fail(p != ProtocolHTTP && p != ProtocolTCP && p != ProtocolUDP, path+".protocol", "%.40q, want %q, %q or %q", p, ProtocolHTTP, ProtocolTCP, ProtocolUDP)
	}
}

func (v *validator) health(path string, c *ClassUpgrade) {
	h, services := &c.Health, c.Services
	kinds := 0
	for _, set := range []bool{h.HTTP != "", h.TCP, len(h.Exec) > 0, h.Notify} {
		if set {
			kinds++
		}
	}
	v.fail(kinds != 1, path, "%d kinds of check, want exactly one of http, tcp, exec and notify", kinds)
	if h.HTTP != "" {
		v.fail(!validPath(h.HTTP), path+".http", "%.80q, want a path such as /healthz of at most %d bytes", h.HTTP, MaxHTTPPathBytes)
	}
	v.argv(path+".exec", h.Exec, c)
	if h.HTTP != "" || h.TCP {
		s, ok := services[h.Service]
		v.fail(!ok, path+".service", "%.40q is not a service of the class", h.Service)
		v.fail(ok && h.HTTP != "" && s.Protocol != ProtocolHTTP, path+".service", "%q does not speak http: use tcp = true", h.Service)
		v.fail(ok && h.TCP && s.Protocol == ProtocolUDP, path+".service", "%q speaks udp, which accepts no connection: use exec or notify", h.Service)
	} else {
		v.fail(h.Service != "", path+".service", "%.40q, but only checks by http and tcp ask a service", h.Service)
	}
	v.duration(path+".interval", h.Interval, MinHealthInterval, MaxHealthInterval)
	v.duration(path+".min_healthy_time", h.MinHealthyTime, 0, MaxHealthTime)
	v.duration(path+".healthy_deadline", h.HealthyDeadline, 1, MaxHealthTime)
	v.duration(path+".drain_timeout", h.DrainTimeout, 0, MaxDrainTimeout)
}

func (v *validator) duration(path string, d, least, most Duration) {
	v.fail(d < least || d > most, path, "%s, want %s to %s", d, least, most)
}

func (v *validator) transform(path string, c *ClassUpgrade) {
	t := &c.Transform
	v.argv(path+".exec", t.Exec, &ClassUpgrade{Services: c.Services})
	v.fail(len(t.Exec) > 0 && c.From == 0, path+".exec", "a first installation (from = 0) has no old state to transform")
	v.fail(t.Reverse != nil && c.From == 0, path+".reverse", "a first installation (from = 0) has no version to go back to")
	if t.Reverse != nil {
		v.argv(path+".reverse.exec", t.Reverse.Exec, &ClassUpgrade{Services: c.Services})
		v.fail(len(t.Reverse.Exec) == 0 && c.Past.Stateful(), path+".reverse.exec", "none, but the past object keeps a state, which only a program can take back into the old form")
	}
	var least Duration
	if len(t.Exec) > 0 || t.Reverse != nil || len(c.Finalized) > 0 {
		least = 1
	}
	v.duration(path+".timeout", t.Timeout, least, MaxTransformTime)
	v.fail(t.MemoryMax < 0 || t.MemoryMax > MaxTransformBytes, path+".memory_max", "%d bytes, want 0 to %d", t.MemoryMax, int64(MaxTransformBytes))
	v.fail(t.DiskMax < 0 || t.DiskMax > MaxTransformBytes, path+".disk_max", "%d bytes, want 0 to %d", t.DiskMax, int64(MaxTransformBytes))
}

func (v *validator) rehearse(path string, c *ClassUpgrade) {
	r := c.Rehearse
	if r == nil {
		return
	}
	v.fail(c.From == 0, path, "set, but a first installation (from = 0) has no state to rehearse on")
	v.argv(path+".snapshot", r.Snapshot, &ClassUpgrade{Services: c.Services})
	v.argv(path+".check", r.Check, &ClassUpgrade{Services: c.Services})
	v.duration(path+".timeout", r.Timeout, MinRehearsalTime, MaxTransformTime)
}

func (v *validator) finalized(path string, c *ClassUpgrade) {
	v.argv(path, c.Finalized, &ClassUpgrade{Services: c.Services})
	v.fail(len(c.Finalized) > 0 && c.From == 0, path, "set, but a first installation (from = 0) has nothing to be taken back to")
}

func (v *validator) hooks(path string, c *ClassUpgrade) {
	h := c.Hooks
	if h.IsZero() {
		return
	}
	v.fail(len(h.PreStop) == 0 && len(h.PostStart) == 0, path, "a timeout, but neither pre_stop nor post_start")
	v.argv(path+".pre_stop", h.PreStop, &ClassUpgrade{Services: c.Services})
	v.argv(path+".post_start", h.PostStart, &ClassUpgrade{Services: c.Services})
	v.duration(path+".timeout", h.Timeout, MinHookTime, MaxHookTime)
}

// simulationKinds lists what Kind may be, for messages.
var simulationKinds = strings.Join([]string{SimulateRules, SimulateWasm, SimulateExec, SimulateCompatible, SimulateRefuse}, ", ")

// simulation checks past or future. A first installation has no neighbouring
// version, so it may leave them out.
func (v *validator) simulation(path string, c *ClassUpgrade, s *Simulation) {
	v.fail(s.Kind != SimulateRules && s.Rules != Chunk{}, path+".rules", "set, but the kind is %.40q", s.Kind)
	v.fail(s.Kind != SimulateWasm && s.Wasm != Chunk{}, path+".wasm", "set, but the kind is %.40q", s.Kind)
	v.fail(s.Kind != SimulateExec && len(s.Exec) > 0, path+".exec", "set, but the kind is %.40q", s.Kind)
	v.fail(s.Kind != SimulateRefuse && s.Reason != "", path+".reason", "set, but the kind is %.40q", s.Kind)
	v.fail(s.Kind == "" && s.RetireAfter != 0, path+".retire_after", "set, but there is nothing to retire")
	v.objectLimits(path, s)
	switch s.Kind {
	case SimulateRules:
		v.blob(path+".rules", s.Rules, MaxRulesBytes)
	case SimulateWasm:
		v.blob(path+".wasm", s.Wasm, MaxWasmBytes)
		v.fail(!speaksHTTP(c.Services), path+".wasm", "no service of the class speaks http, so it has no calls to answer")
	case SimulateExec:
		v.fail(len(s.Exec) == 0, path+".exec", "empty: it must start the object")
		v.argv(path+".exec", s.Exec, &ClassUpgrade{Services: c.Services})
		v.fail(len(c.Services) == 0, path+".exec", "the class has no service, so it has no callers to answer")
	case SimulateCompatible:
	case SimulateRefuse:
		v.fail(s.Reason == "" || len(s.Reason) > MaxReasonBytes || !printable(s.Reason),
			path+".reason", "%d bytes, want 1 to %d without control characters: callers are shown it", len(s.Reason), MaxReasonBytes)
	case "":
		v.fail(c.From != 0, path+".kind", "empty, want one of %s", simulationKinds)
	default:
		v.fail(true, path+".kind", "%.40q, want one of %s", s.Kind, simulationKinds)
	}
}

// objectLimits checks what an object asks of the agent beside answering.
func (v *validator) objectLimits(path string, s *Simulation) {
	v.fail(s.Observe && !s.Stateful(), path+".observe", "true, but an object of kind %.40q has no state that could follow from calls", s.Kind)
	if s.RetireAfter != 0 {
		v.duration(path+".retire_after", s.RetireAfter, MinRetireAfter, MaxRetireAfter)
		v.fail(s.RetireAfter == DefaultRetireAfter, path+".retire_after", "%s, which is said by leaving it out", s.RetireAfter)
	}
	v.fail(s.MemoryMax != 0 && !s.Stateful(), path+".memory_max", "set, but the kind is %.40q", s.Kind)
	v.fail(s.MemoryMax < 0 || s.MemoryMax > MaxObjectMemory, path+".memory_max", "%d bytes, want 0 to %d", s.MemoryMax, int64(MaxObjectMemory))
	v.fail(s.Timeout != 0 && s.Kind != SimulateWasm, path+".timeout", "set, but the kind is %.40q", s.Kind)
	v.duration(path+".timeout", s.Timeout, 0, MaxObjectTime)
}

func speaksHTTP(services map[string]Service) bool {
	for _, s := range services {
		if s.Protocol == ProtocolHTTP {
			return true
		}
	}
	return false
}

func (v *validator) schedule(path string, s *ScheduleSpec) {
	switch s.Strategy {
	case StrategyRolling, StrategyManual:
		v.fail(!ValidUnavailable(s.MaxUnavailable), path+".max_unavailable", `%.40q, want a count such as "2" or a share such as "10%%"`, s.MaxUnavailable)
	case StrategyAtOnce, StrategyRandom:
		v.fail(s.MaxUnavailable != "" && !ValidUnavailable(s.MaxUnavailable), path+".max_unavailable", `%.40q, want nothing: %s bounds nothing`, s.MaxUnavailable, s.Strategy)
	default:
		v.fail(true, path+".strategy", "%.40q, want %q, %q, %q or %q", s.Strategy, StrategyRolling, StrategyAtOnce, StrategyManual, StrategyRandom)
	}
	if s.Strategy == StrategyRandom {
		v.fail(s.Rate < 1 || s.Rate > MaxRate, path+".rate", "%d, want 1 to %d nodes in an hour", s.Rate, MaxRate)
	} else {
		v.fail(s.Rate != 0, path+".rate", "set, but the strategy is %q", s.Strategy)
	}
	v.fail(s.Canary < 0 || s.Canary > MaxCanary, path+".canary", "%d, want 0 to %d", s.Canary, MaxCanary)
	v.duration(path+".soak", s.Soak, 0, MaxSoak)
	if s.ProgressDeadline != 0 {
		v.duration(path+".progress_deadline", s.ProgressDeadline, MinProgress, MaxProgress)
		v.fail(s.ProgressDeadline <= s.LongestSoak(), path+".progress_deadline", "%s, want more than the soak of %s, in which nobody settles", s.ProgressDeadline, s.LongestSoak())
	}
	v.fail(s.Soak > 0 && s.Canary == 0, path+".soak", "%s, but there is no canary to wait for", s.Soak)
	v.waves(path+".waves", s)
	v.spread(path+".spread", s)
	v.fail(s.FailureMax < 0 || s.FailureMax > MaxFailures, path+".failure_max", "%d, want 0 to %d", s.FailureMax, MaxFailures)
	v.duration(path+".hold_timeout", s.HoldTimeout, 0, MaxHoldTimeout)
	v.fail(len(s.Windows) > MaxWindows, path+".windows", "%d of them, the most is %d", len(s.Windows), MaxWindows)
	for i, w := range s.Windows {
		w.Problems(func(bad bool, field, format string, args ...any) {
			v.fail(bad, fmt.Sprintf("%s.windows[%d].%s", path, i, field), format, args...)
		})
	}
	v.fail(!ValidExpression(s.When), path+".when", "%d bytes, want text of at most %d", len(s.When), MaxExpressionBytes)
	v.fail(!ValidExpression(s.HoldIf), path+".hold_if", "%d bytes, want text of at most %d", len(s.HoldIf), MaxExpressionBytes)
}

// after checks which classes settle first: others of the release, and in no circle.
func (v *validator) after(classes map[Class]ClassUpgrade) {
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		after, path := classes[name].Schedule.After, fmt.Sprintf("classes.%.40s.schedule.after", name)
		v.fail(!slices.IsSorted(after) || len(slices.Compact(slices.Clone(after))) < len(after), path, "want each class once, sorted")
		for _, other := range after {
			_, ok := classes[other]
			v.fail(!ok, path, "%.40q is no class that the release upgrades", other)
		}
		v.fail(WaitsFor(classes, name, name), path, "the class waits for itself, by what settles before it: none of them would ever begin")
	}
}

// WaitsFor reports whether the nodes of class wait until those of other have settled, by
// the After of a release's classes, one after the other.
func WaitsFor(classes map[Class]ClassUpgrade, class, other Class) bool {
	seen := map[Class]bool{}
	var reaches func(from Class) bool
	reaches = func(from Class) bool {
		for _, next := range classes[from].Schedule.After {
			if next == other {
				return true
			}
			if !seen[next] {
				seen[next] = true
				if reaches(next) {
					return true
				}
			}
		}
		return false
	}
	return reaches(class)
}

// printable reports whether s is UTF-8 text on one line.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

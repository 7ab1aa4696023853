package build

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"

	"moult/store/bundle"
	"moult/store/bundle/hclguard"
)

var platformPattern = regexp.MustCompile(`^[a-z0-9]{1,16}$`)

const nameRule = "want a lower-case letter, then at most 31 lower-case letters, digits and hyphens"

func (d *decoder) release(r *releaseSchema, spec *Spec) {
	spec.at = r.At
	if d.required(r.Version, r.At, "version", "version = 2") {
		spec.at = r.Version.Expr.Range()
		spec.Version = bundle.Version(d.number(r.Version, 1, int64(bundle.MaxVersion)))
	}
	spec.FinalizeAfter = d.duration(r.FinalizeAfter, 0, bundle.MinFinalizeAfter, bundle.MaxFinalizeAfter)
	if n := len(r.Classes); n == 0 && r.Agent == nil || n > bundle.MaxClasses {
		d.fail(r.At, "Missing class block", "A release changes 1 to %d classes: class \"kv\" { … }, one block for each. One with agent { … } may change none.", bundle.MaxClasses)
		return
	}
	if r.Agent != nil {
		spec.Agent = d.agent(r.Agent)
	}
	seen := map[string]hcl.Range{}
	for i := range r.Classes {
		c := &r.Classes[i]
		d.label("class", c.Name, c.NameAt, seen)
		spec.Classes = append(spec.Classes, d.class(c, spec.Version))
	}
	slices.SortFunc(spec.Classes, func(a, b ClassSpec) int { return cmp.Compare(a.Name, b.Name) })
	d.after(r.Classes, spec.Classes)
}

// label checks a name that must be unique among its kind.
func (d *decoder) label(kind, name string, at hcl.Range, seen map[string]hcl.Range) {
	if !bundle.ValidName(name) {
		d.fail(at, "Bad name", "%.80q cannot name a %s: %s.", name, kind, nameRule)
	}
	if first, ok := seen[name]; ok {
		d.fail(at, "Duplicate "+kind, "There is a %s %q already, on line %d.", kind, name, first.Start.Line)
	}
	seen[name] = at
}

func (d *decoder) class(s *classSchema, version bundle.Version) ClassSpec {
	c := ClassSpec{Name: bundle.Class(s.Name)}
	u := &c.Upgrade
	if s.From != nil {
		u.From = bundle.Version(d.number(s.From, 1, int64(bundle.MaxVersion)))
		c.from = s.From.Expr.Range()
		if u.From != 0 && version != 0 && u.From >= version {
			d.fail(c.from, "Wrong from", "Release %d upgrades from version %d; without from it installs the class.", version, version-1)
		}
	}
	upgrade := s.From != nil
	c.Artifacts = d.artifacts(s.Artifacts, s.At, "A class")
	u.Services = d.services(s)
	r := hclguard.References{State: true, Vars: true, Args: true, Services: slices.Collect(maps.Keys(u.Services)), Of: "The class"}
	if d.required(s.Command, s.At, "command", `command = ["./kv", "--state", "${state}"]`) {
		u.Command = d.argv(s.Command, r)
		c.program(s.Command, u.Command)
	}
	d.health(s, &c, r)
	u.Lower()
	d.transform(s.Transform, upgrade, &c)
	d.rehearse(s.Rehearse, upgrade, &c)
	d.finalized(s.Finalized, upgrade, &c)
	d.hooks(s.Hooks, &c)
	u.Past, c.Past = d.simulation(s, s.Past, pastBlock, &c)
	u.Future, c.Future = d.simulation(s, s.Future, futureBlock, &c)
	d.facts(s, &c)
	u.Schedule = d.schedule(s.Schedule)
	d.conditions(s, &c)
	return c
}

func (d *decoder) artifacts(blocks []artifactSchema, at hcl.Range, whose string) []ArtifactSpec {
	var all []ArtifactSpec
	seen := map[bundle.Platform]hcl.Range{}
	for i := range blocks {
		b := &blocks[i]
		a := ArtifactSpec{at: b.At}
		if d.required(b.OS, b.At, "os", `os = "linux"`) {
			a.OS = d.platform(b.OS)
		}
		if d.required(b.Arch, b.At, "arch", `arch = "amd64"`) {
			a.Arch = d.platform(b.Arch)
		}
		if d.required(b.Path, b.At, "path", `path = "build/kv"`) {
			a.Path, a.at = d.name(b.Path), b.Path.Expr.Range()
		}
		a.Name = d.name(b.Name)
		if first, ok := seen[a.Platform]; ok && a.OS != "" && a.Arch != "" {
			d.fail(b.At, "Duplicate artifact", "There is an artifact for %s already, on line %d.", a.Platform, first.Start.Line)
		}
		seen[a.Platform] = b.At
		all = append(all, a)
	}
	if len(all) == 0 || len(all) > bundle.MaxArtifacts {
		d.fail(at, "Missing artifact block", "%s has 1 to %d artifacts, one for each platform: artifact { … } with os, arch and path.", whose, bundle.MaxArtifacts)
	}
	slices.SortFunc(all, func(a, b ArtifactSpec) int {
		return cmp.Or(cmp.Compare(a.OS, b.OS), cmp.Compare(a.Arch, b.Arch))
	})
	return all
}

func (d *decoder) platform(a *hcl.Attribute) string {
	s := d.name(a)
	if s != "" && !platformPattern.MatchString(s) {
		d.fail(a.Expr.Range(), "Bad platform", "Here %s wants Go's name, such as linux or amd64.", a.Name)
		return ""
	}
	return s
}

func (d *decoder) services(s *classSchema) map[string]bundle.Service {
	if len(s.Services) > bundle.MaxServices {
		d.fail(s.At, "Too many services", "A class has at most %d services.", bundle.MaxServices)
	}
	all := map[string]bundle.Service{}
	seen := map[string]hcl.Range{}
	for i := range s.Services {
		b := &s.Services[i]
		d.label("service", b.Name, b.NameAt, seen)
		all[b.Name] = bundle.Service{} // even where it is wrong: it is declared
		if !d.required(b.Protocol, b.At, "protocol", `protocol = "http"`) {
			continue
		}
		p, ok := d.text(b.Protocol)
		if ok && p != bundle.ProtocolHTTP && p != bundle.ProtocolTCP && p != bundle.ProtocolUDP {
			d.fail(b.Protocol.Expr.Range(), "Unknown protocol", "Here protocol wants %q (calls can be simulated one by one), %q (any stream) or %q (packets).",
				bundle.ProtocolHTTP, bundle.ProtocolTCP, bundle.ProtocolUDP)
		}
		all[b.Name] = bundle.Service{Protocol: p}
	}
	return all
}

func (d *decoder) health(s *classSchema, c *ClassSpec, r hclguard.References) {
	h := s.Health
	if h == nil {
		d.fail(s.At, "Missing health block", "A rollout rests on knowing whether a node is well: health { … } with one of http = \"/healthz\", tcp = true, exec = […], notify = true.")
		return
	}
	out := &c.Upgrade.Health
	out.Interval = d.duration(h.Interval, defaultInterval, bundle.MinHealthInterval, bundle.MaxHealthInterval)
	out.MinHealthyTime = d.duration(h.MinHealthyTime, defaultMinHealthyTime, 0, bundle.MaxHealthTime)
	out.HealthyDeadline = d.duration(h.HealthyDeadline, defaultHealthyDeadline, minHealthyDeadline, bundle.MaxHealthTime)
	out.DrainTimeout = d.duration(h.DrainTimeout, defaultDrainTimeout, 0, bundle.MaxDrainTimeout)
	before := len(d.diags)
	out.HTTP, out.TCP, out.Notify = d.name(h.HTTP), d.flag(h.TCP), d.flag(h.Notify)
	out.Exec = d.argv(h.Exec, r)
	c.program(h.Exec, out.Exec)
	if len(d.diags) > before {
		return
	}
	kinds := 0
	for _, set := range []bool{out.HTTP != "", out.TCP, out.Exec != nil, out.Notify} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		d.fail(h.At, "Bad health block", "It wants exactly one of http, tcp, exec and notify, and has %d.", kinds)
	case out.HTTP != "" && !validPath(out.HTTP):
		d.fail(h.HTTP.Expr.Range(), "Bad path", "Here http wants a path such as \"/healthz\", of at most %d bytes without spaces.", bundle.MaxHTTPPathBytes)
	case out.HTTP != "" || out.TCP:
		out.Service = d.healthService(h, c.Upgrade.Services, out.HTTP != "")
	case h.Service != nil:
		d.fail(h.Service.NameRange, "Needless service", "Only checks by http and tcp ask a service.")
	}
}

// oneLine reports whether s is text without control characters; HCL has seen
// to it that it is UTF-8.
func oneLine(s string) bool { return !strings.ContainsFunc(s, unicode.IsControl) }

func validPath(s string) bool {
	return strings.HasPrefix(s, "/") && len(s) <= bundle.MaxHTTPPathBytes && oneLine(s) && !strings.Contains(s, " ")
}

// healthService returns the service that a check asks.
func (d *decoder) healthService(h *healthSchema, services map[string]bundle.Service, http bool) string {
	name, at := d.name(h.Service), h.At
	switch {
	case h.Service != nil:
		at = h.Service.Expr.Range()
	case len(services) == 1:
		for only := range services {
			name = only
		}
	default:
		d.fail(at, "Missing service", "The class has %d services: say which one is asked, such as: service = \"api\"", len(services))
		return ""
	}
	if name == "" {
		return ""
	}
	s, ok := services[name]
	if !ok {
		d.fail(at, "Unknown service", "The class has no service %q.", name)
	} else if http && s.Protocol == bundle.ProtocolTCP {
		d.fail(at, "Wrong check", "The service %q does not speak http: use tcp = true, or exec.", name)
	} else if s.Protocol == bundle.ProtocolUDP {
		d.fail(at, "Wrong check", "The service %q speaks udp, which accepts no connection: use exec = […], or notify = true.", name)
	}
	return name
}

func (d *decoder) transform(t *transformSchema, upgrade bool, c *ClassSpec) {
	if t == nil {
		if upgrade {
			c.Upgrade.Transform.Timeout = defaultTransformTimeout
		}
		return
	}
	if !upgrade {
		d.fail(t.At, "Needless transform", "Without from the class is installed: there is no old state to transform.")
		return
	}
	const whole = "Write a program for the whole state: exec = [\"./kv\", \"migrate\"]"
	d.laterBlocks(t.Object, "object", whole)
	out := &c.Upgrade.Transform
	if r := t.Reverse; r != nil {
		out.Reverse = &bundle.Reverse{Exec: d.argv(r.Exec, hclguard.References{Instead: insteadForTransform})}
		c.program(r.Exec, out.Reverse.Exec)
		if r.Exec != nil && t.Exec == nil && len(t.Object) == 0 {
			d.fail(r.At, "Missing exec", "What a reverse program keeps (MOULT_COMPLEMENT) only a transform program can give back: the transform block wants exec beside it.")
		}
	}
	copies := t.Exec == nil && t.Reverse != nil // both ways
	if len(t.Object) == 0 && !copies && d.required(t.Exec, t.At, "exec", `exec = ["./kv", "migrate"]; leave the block out to copy the state as it is`) {
		out.Exec = d.argv(t.Exec, hclguard.References{Instead: insteadForTransform})
		c.program(t.Exec, out.Exec)
	}
	out.Timeout = d.duration(t.Timeout, defaultTransformTimeout, minTransformTimeout, bundle.MaxTransformTime)
	out.MemoryMax = d.size(t.MemoryMax, bundle.MaxTransformBytes)
	out.DiskMax = d.size(t.DiskMax, bundle.MaxTransformBytes)
}

func (d *decoder) finalized(a *hcl.Attribute, upgrade bool, c *ClassSpec) {
	if a == nil {
		return
	}
	if !upgrade {
		d.fail(a.NameRange, "Needless finalized", "Without from the class is installed: there is nothing that it could be taken back to.")
		return
	}
	c.Upgrade.Finalized = d.argv(a, hclguard.References{Instead: insteadForFinalized})
	c.program(a, c.Upgrade.Finalized)
}

func (d *decoder) hooks(h *hooksSchema, c *ClassSpec) {
	if h == nil {
		return
	}
	if h.PreStop == nil && h.PostStart == nil {
		d.fail(h.At, "Empty hooks", "Here go pre_stop, a program that is run before the software is stopped, or post_start, once it is healthy.")
		return
	}
	out := &c.Upgrade.Hooks
	out.PreStop = d.argv(h.PreStop, hclguard.References{Instead: insteadForHook})
	c.program(h.PreStop, out.PreStop)
	out.PostStart = d.argv(h.PostStart, hclguard.References{Instead: insteadForHook})
	c.program(h.PostStart, out.PostStart)
	out.Timeout = d.duration(h.Timeout, defaultHookTime, bundle.MinHookTime, bundle.MaxHookTime)
}

func (d *decoder) rehearse(r *rehearseSchema, upgrade bool, c *ClassSpec) {
	switch {
	case r == nil:
		return
	case !upgrade:
		d.fail(r.At, "Needless rehearse", "Without from the class is installed: there is no state to rehearse on.")
		return
	}
	out := &bundle.Rehearse{}
	c.Upgrade.Rehearse = out
	out.Snapshot = d.argv(r.Snapshot, hclguard.References{Instead: insteadForTransform})
	c.program(r.Snapshot, out.Snapshot)
	out.Check = d.argv(r.Check, hclguard.References{Instead: insteadForCheck})
	c.program(r.Check, out.Check)
	out.Timeout = d.duration(r.Timeout, defaultRehearsalTime, bundle.MinRehearsalTime, bundle.MaxTransformTime)
}

package config

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"moult/store/bundle"
	"moult/store/bundle/hclguard"
	"moult/store/durable"
)

// The HCL form. Pointers tell "not given" from the zero value.
type (
	fileHCL struct {
		Agent agentHCL `hcl:"agent,block"`
	}
	agentHCL struct {
		Name         *string           `hcl:"name"`
		Class        string            `hcl:"class"`
		Data         *string           `hcl:"data"`
		Root         string            `hcl:"root"`
		GossipKey    *string           `hcl:"gossip_key"`
		OpenRing     bool              `hcl:"open_ring,optional"`
		JoinToken    *string           `hcl:"join_token"`
		Bind         *string           `hcl:"bind"`
		Advertise    *string           `hcl:"advertise"`
		Join         []string          `hcl:"join,optional"`
		Labels       map[string]string `hcl:"labels,optional"`
		Env          hcl.Expression    `hcl:"env,optional"`
		Args         hcl.Expression    `hcl:"args,optional"`
		Vars         hcl.Expression    `hcl:"vars,optional"`
		API          *string           `hcl:"api"`
		APIToken     *string           `hcl:"api_token"`
		Metrics      *string           `hcl:"metrics"`
		OnEvent      []string          `hcl:"on_event,optional"`
		User         *string           `hcl:"user"`
		Group        *string           `hcl:"group"`
		Groups       []string          `hcl:"supplementary_groups,optional"`
		Readable     []string          `hcl:"readable,optional"`
		Umask        *string           `hcl:"umask"`
		OOMScore     *int              `hcl:"oom_score"`
		Rlimits      *rlimitsHCL       `hcl:"rlimits,block"`
		MemoryMax    *string           `hcl:"memory_max"`
		CPUWeight    *uint64           `hcl:"cpu_weight"`
		WorkingDir   *string           `hcl:"working_dir"`
		Writable     []string          `hcl:"writable,optional"`
		Egress       *string           `hcl:"egress"`
		EgressOpen   *bool             `hcl:"egress_open"`
		SyncInterval *string           `hcl:"sync_interval"`
		FirstSync    *string           `hcl:"first_sync"`
		Services     []serviceHCL      `hcl:"service,block"`
		Adopt        *adoptHCL         `hcl:"adopt,block"`
	}
	rlimitsHCL struct {
		All hcl.Attributes `hcl:",remain"`
	}
	serviceHCL struct {
		Name     string  `hcl:"name,label"`
		Address  string  `hcl:"address"`
		Versions string  `hcl:"versions"`
		Attach   *string `hcl:"attach"`
		Egress   *string `hcl:"egress"`
		External *uint64 `hcl:"external_version"`
		Protocol *string `hcl:"protocol"`
	}
	adoptHCL struct {
		Version uint64         `hcl:"version"`
		Command hcl.Expression `hcl:"command"`
		State   string         `hcl:"state"`
		Health  *healthHCL     `hcl:"health,block"`
	}
	healthHCL struct {
		HTTP            *string        `hcl:"http"`
		TCP             *bool          `hcl:"tcp"`
		Exec            hcl.Expression `hcl:"exec,optional"`
		Notify          *bool          `hcl:"notify"`
		Service         *string        `hcl:"service"`
		Interval        *string        `hcl:"interval"`
		MinHealthyTime  *string        `hcl:"min_healthy_time"`
		HealthyDeadline *string        `hcl:"healthy_deadline"`
		DrainTimeout    *string        `hcl:"drain_timeout"`
	}
)

// Load reads agent.hcl on top of Default. Paths in the file are
// taken from the file's folder. Errors show file, line and text.
func Load(path string) (Config, error) {
	src, err := durable.ReadFile(path, maxFile)
	if err != nil {
		return Config{}, err
	}
	c, err := parse(src, path)
	c.File = path
	return c, err
}

func parse(src []byte, path string) (Config, error) {
	if diags := hclguard.Check(src, path); diags.HasErrors() {
		return Config{}, hclError(map[string]*hcl.File{path: {Bytes: src}}, diags)
	}
	parser := hclparse.NewParser()
	f, diags := parser.ParseHCL(src, path)
	if diags.HasErrors() {
		return Config{}, hclError(parser.Files(), diags)
	}
	var file fileHCL
	if diags := gohcl.DecodeBody(f.Body, nil, &file); diags.HasErrors() {
		return Config{}, hclError(parser.Files(), diags)
	}
	c, err := file.Agent.config(filepath.Dir(path))
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if diags := file.Agent.texts(&c); diags.HasErrors() {
		return Config{}, hclError(parser.Files(), diags)
	}
	return c, nil
}

func hclError(files map[string]*hcl.File, diags hcl.Diagnostics) error {
	var b strings.Builder
	w := hcl.NewDiagnosticTextWriter(&b, files, 100, false)
	if err := w.WriteDiagnostics(diags); err != nil {
		return diags
	}
	return errors.New(strings.TrimSpace(b.String()))
}

func (h agentHCL) config(dir string) (Config, error) {
	c := Default()
	set(&c.Name, h.Name)
	set(&c.Data, h.Data)
	set(&c.GossipKey, h.GossipKey)
	set(&c.JoinToken, h.JoinToken)
	c.OpenRing = h.OpenRing
	set(&c.Bind, h.Bind)
	set(&c.Advertise, h.Advertise)
	set(&c.API, h.API)
	set(&c.APIToken, h.APIToken)
	set(&c.Metrics, h.Metrics)
	set(&c.EgressOpen, h.EgressOpen)
	set(&c.User, h.User)
	set(&c.Group, h.Group)
	c.Groups = h.Groups
	for _, path := range h.Readable {
		c.Readable = append(c.Readable, from(dir, path))
	}
	for _, path := range h.Writable {
		c.Writable = append(c.Writable, from(dir, path))
	}
	c.Class, c.Root = bundle.Class(h.Class), h.Root
	c.Join, c.Labels = h.Join, h.Labels
	for _, p := range []*string{&c.Data, &c.Root, &c.GossipKey, &c.JoinToken, &c.APIToken} {
		*p = from(dir, *p)
	}
	var err error
	if c.OnEvent = slices.Clone(h.OnEvent); len(c.OnEvent) > 0 && strings.Contains(c.OnEvent[0], "/") {
		c.OnEvent[0], err = filepath.Abs(from(dir, c.OnEvent[0])) // it is run in another folder
	}
	err = errors.Join(err,
		h.setEgress(&c.Egress),
		setDuration(&c.SyncInterval, h.SyncInterval, "sync_interval"),
		setDuration(&c.FirstSync, h.FirstSync, "first_sync"),
		h.setBounds(&c, dir))
	c.Services = map[string]Service{}
	protocols := map[string]bundle.Service{}
	for _, s := range h.Services {
		sc, e := s.config()
		if _, twice := c.Services[s.Name]; twice {
			e = errors.Join(e, fmt.Errorf("service %q: there are two such blocks", s.Name))
		}
		err = errors.Join(err, e)
		c.Services[s.Name] = sc
		protocols[s.Name] = bundle.Service{Protocol: cmp.Or(sc.Protocol, bundle.ProtocolHTTP)}
	}
	if h.Adopt != nil {
		health, e := h.Adopt.Health.health()
		err = errors.Join(err, e)
		c.Adopt = &Adopt{
			Version: bundle.Version(h.Adopt.Version), State: from(dir, h.Adopt.State), Services: protocols, Health: health,
		}
	}
	return c, err
}

func (h *healthHCL) health() (bundle.Health, error) {
	d := DefaultHealth()
	if h == nil {
		return d, errors.New("adopt: it needs a health block: how moult sees that the software is ready")
	}
	set(&d.HTTP, h.HTTP)
	set(&d.TCP, h.TCP)
	set(&d.Notify, h.Notify)
	set(&d.Service, h.Service)
	return d, errors.Join(
		setDuration((*time.Duration)(&d.Interval), h.Interval, "health.interval"),
		setDuration((*time.Duration)(&d.MinHealthyTime), h.MinHealthyTime, "health.min_healthy_time"),
		setDuration((*time.Duration)(&d.HealthyDeadline), h.HealthyDeadline, "health.healthy_deadline"),
		setDuration((*time.Duration)(&d.DrainTimeout), h.DrainTimeout, "health.drain_timeout"))
}

func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

func orElse[T any](v *T, def T) T {
	if v != nil {
		return *v
	}
	return def
}

func setDuration(to *time.Duration, v *string, field string) error {
	if v == nil {
		return nil
	}
	d, err := time.ParseDuration(*v)
	if err != nil || d < 0 {
		return fmt.Errorf("%s = %q: want a time such as \"10s\"", field, *v)
	}
	*to = d
	return nil
}

// from takes a path of a config file in dir.
func from(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"moult/agent/control"
	"moult/agent/ways"
	"moult/store/bundle"
	"moult/store/bundle/hclguard"
	"moult/store/durable"
)

// Config is all that an agent is told. It is a value; an Agent keeps its own copy.
type Config struct {
	Name      string
	Class     bundle.Class
	Data      string // the data folder
	Root      string // the file of the cluster's first root
	GossipKey string // the file of the ring's shared secret; empty: derived from the root, so not secret
	Bind      string // host:port, one port for UDP and TCP
	Advertise string // host:port that peers use; empty: Bind
	Join      []string
	Labels    map[string]string
	Env       map[string]string
	Services  map[string]ServiceConfig
	Adopt     *Adopt
	// API is a TCP host:port for the control API beside the socket; empty: none.
	// APIToken is the file of the token that its callers need; empty: none, and the
	// address must be this machine's alone.
	API, APIToken string
	// Egress is how the node's calls find a peer's address for its version; one
	// of the Egress words.
	Egress string

	// SyncInterval is the time between two anti-entropy exchanges.
	SyncInterval time.Duration
	// FirstSync is how long a node that has never served waits for the ring
	// before it starts without news from it.
	FirstSync time.Duration
}

// Adopt describes software that ran before moult looked after it.
type Adopt struct {
	Version  bundle.Version
	Command  []string
	State    string
	Services map[string]bundle.Service
	Health   bundle.Health
}

// DefaultConfig returns the values that a config file need not give.
func DefaultConfig() Config {
	name, err := os.Hostname()
	if err != nil {
		name = ""
	}
	return Config{
		Name:         name,
		Data:         "/var/lib/moult",
		Bind:         "0.0.0.0:7946",
		Egress:       ways.EgressAuto,
		SyncInterval: 10 * time.Second,
		FirstSync:    15 * time.Second,
	}
}

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
		Bind         *string           `hcl:"bind"`
		Advertise    *string           `hcl:"advertise"`
		Join         []string          `hcl:"join,optional"`
		Labels       map[string]string `hcl:"labels,optional"`
		Env          map[string]string `hcl:"env,optional"`
		API          *string           `hcl:"api"`
		APIToken     *string           `hcl:"api_token"`
		Egress       *string           `hcl:"egress"`
		SyncInterval *string           `hcl:"sync_interval"`
		FirstSync    *string           `hcl:"first_sync"`
		Services     []serviceHCL      `hcl:"service,block"`
		Adopt        *adoptHCL         `hcl:"adopt,block"`
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
		Version uint64     `hcl:"version"`
		Command []string   `hcl:"command"`
		State   string     `hcl:"state"`
		Health  *healthHCL `hcl:"health,block"`
	}
	healthHCL struct {
		HTTP            *string  `hcl:"http"`
		TCP             *bool    `hcl:"tcp"`
		Exec            []string `hcl:"exec,optional"`
		Notify          *bool    `hcl:"notify"`
		Service         *string  `hcl:"service"`
		Interval        *string  `hcl:"interval"`
		MinHealthyTime  *string  `hcl:"min_healthy_time"`
		HealthyDeadline *string  `hcl:"healthy_deadline"`
		DrainTimeout    *string  `hcl:"drain_timeout"`
	}
)

// LoadConfig reads agent.hcl on top of DefaultConfig. Paths in the file are
// taken from the file's folder. Errors show file, line and text.
func LoadConfig(path string) (Config, error) {
	src, err := durable.ReadFile(path, maxConfigFile)
	if err != nil {
		return Config{}, err
	}
	return parseConfig(src, path)
}

func parseConfig(src []byte, path string) (Config, error) {
	if diags := hclguard.Check(src, path); diags.HasErrors() {
		return Config{}, hclError(map[string]*hcl.File{path: {Bytes: src}}, diags)
	}
	parser := hclparse.NewParser()
	f, diags := parser.ParseHCL(src, path)
	if diags.HasErrors() {
		return Config{}, hclError(parser.Files(), diags)
	}
	var file fileHCL
	if diags := gohcl.DecodeBody(f.Body, configContext(f), &file); diags.HasErrors() {
		return Config{}, hclError(parser.Files(), diags)
	}
	c, err := file.Agent.config(filepath.Dir(path))
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// configContext keeps ${state} and ${service.NAME} as they are, for the
// services that the file declares: they are replaced when the software starts.
func configContext(f *hcl.File) *hcl.EvalContext {
	services := map[string]cty.Value{}
	if body, ok := f.Body.(*hclsyntax.Body); ok {
		for _, agent := range body.Blocks {
			for _, b := range agent.Body.Blocks {
				if b.Type == "service" && len(b.Labels) == 1 {
					services[b.Labels[0]] = cty.StringVal("${service." + b.Labels[0] + "}")
				}
			}
		}
	}
	return &hcl.EvalContext{Variables: map[string]cty.Value{
		"state":   cty.StringVal("${state}"),
		"service": cty.ObjectVal(services),
	}}
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
	c := DefaultConfig()
	set(&c.Name, h.Name)
	set(&c.Data, h.Data)
	set(&c.GossipKey, h.GossipKey)
	set(&c.Bind, h.Bind)
	set(&c.Advertise, h.Advertise)
	set(&c.API, h.API)
	set(&c.APIToken, h.APIToken)
	c.Class, c.Root = bundle.Class(h.Class), h.Root
	c.Join, c.Labels, c.Env = h.Join, h.Labels, h.Env
	for _, p := range []*string{&c.Data, &c.Root, &c.GossipKey, &c.APIToken} {
		*p = from(dir, *p)
	}
	err := errors.Join(
		h.setEgress(&c.Egress),
		setDuration(&c.SyncInterval, h.SyncInterval, "sync_interval"),
		setDuration(&c.FirstSync, h.FirstSync, "first_sync"))
	c.Services = map[string]ServiceConfig{}
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
			Version: bundle.Version(h.Adopt.Version), Command: h.Adopt.Command,
			State: from(dir, h.Adopt.State), Services: protocols, Health: health,
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
	d.Exec = h.Exec
	return d, errors.Join(
		setDuration((*time.Duration)(&d.Interval), h.Interval, "health.interval"),
		setDuration((*time.Duration)(&d.MinHealthyTime), h.MinHealthyTime, "health.min_healthy_time"),
		setDuration((*time.Duration)(&d.HealthyDeadline), h.HealthyDeadline, "health.healthy_deadline"),
		setDuration((*time.Duration)(&d.DrainTimeout), h.DrainTimeout, "health.drain_timeout"))
}

// DefaultHealth returns the times of a health block that gives none.
func DefaultHealth() bundle.Health {
	return bundle.Health{
		Interval:        bundle.Duration(time.Second),
		MinHealthyTime:  bundle.Duration(10 * time.Second),
		HealthyDeadline: bundle.Duration(5 * time.Minute),
		DrainTimeout:    bundle.Duration(15 * time.Second),
	}
}

const maxPort = 65535

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)

// Validate reports everything in c that an agent could not work with. It
// touches neither files nor network.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !namePattern.MatchString(c.Name) {
		bad("name = %q: want letters, digits, dots and dashes, at most 63", c.Name)
	}
	if !bundle.ValidName(string(c.Class)) {
		bad("class = %q: want the kind of software that this node runs, such as \"kv\": small letters, digits and dashes", c.Class)
	}
	if c.Data == "" {
		bad("data: it must name a folder")
	}
	if c.Root == "" {
		bad("root: it must name the cluster's first root file (see `moult trust init`)")
	}
	checkAddr := func(field, addr string) {
		if _, _, err := splitAddr(addr); err != nil {
			bad("%s = %q: want host:port", field, addr)
		}
	}
	checkAddr("bind", c.Bind)
	if c.Advertise != "" {
		checkAddr("advertise", c.Advertise)
	}
	for _, j := range c.Join {
		checkAddr("join", j)
	}
	if c.API != "" {
		checkAddr("api", c.API)
		if err := control.CheckAddress(c.API, c.APIToken != ""); err != nil {
			bad("api = %q: %w", c.API, err)
		}
	}
	if c.SyncInterval < 50*time.Millisecond {
		bad("sync_interval = %v: at least 50ms", c.SyncInterval)
	}
	if !slices.Contains(ways.EgressWords(), c.Egress) {
		bad("egress = %q: want %s", c.Egress, oneOf(ways.EgressWords()))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		s := c.Services[name]
		if err := s.checkAddress(c.Advertise); err != nil {
			bad("service %q: address = %q: %w", name, s.Address, err)
		}
		if s.First < 1 || s.Last > maxPort || s.Last-s.First < 1 {
			bad("service %q: versions = \"%d-%d\": want at least two ports between 1 and %d", name, s.First, s.Last, maxPort)
		}
		if err := s.checkWords(); err != nil {
			bad("service %q: %w", name, err)
		}
	}
	if a := c.Adopt; a != nil {
		if a.Version == 0 {
			bad("adopt: version: it must say which version runs, 1 or more")
		}
		if len(a.Command) == 0 {
			bad("adopt: command: it must say how the software is started")
		}
		if a.State == "" {
			bad("adopt: state: it must name the folder with the software's state")
		}
		if err := c.checkAdoptedHealth(); err != nil {
			bad("adopt: health: service = %q: %w", a.Health.Service, err)
		}
	}
	return errors.Join(append(errs, c.checkPorts())...)
}

// checkAdoptedHealth checks that the service asked is there and can answer.
func (c Config) checkAdoptedHealth() error {
	h := c.Adopt.Health
	if h.HTTP == "" && !h.TCP {
		return nil
	}
	switch {
	case c.Services[h.Service].Address == "":
		return errors.New("there is no such service block")
	case c.Adopt.Services[h.Service].Protocol == bundle.ProtocolUDP:
		return errors.New("it speaks udp, which accepts no connection: use exec or notify")
	}
	return nil
}

// splitAddr takes host:port apart, with a port that is a number.
func splitAddr(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, int(n), err
}

// checkPorts reports a port that the configuration gives to two things. Ports
// that other programs hold only show when the agent starts.
func (c Config) checkPorts() error {
	type use struct{ host, network, what string }
	uses := map[int][]use{}
	var errs []error
	add := func(host string, port int, network, what string) {
		for _, u := range uses[port] {
			apart := u.network != "" && network != "" && u.network != network
			if port != 0 && !apart && (u.host == host || anyHost(u.host) || anyHost(host)) {
				errs = append(errs, fmt.Errorf("port %d is taken twice: by %s and by %s", port, u.what, what))
				return
			}
		}
		uses[port] = append(uses[port], use{host, network, what})
	}
	addAddr := func(addr, network, what string) {
		if host, port, err := splitAddr(addr); err == nil {
			add(host, port, network, what)
		}
	}
	addAddr(c.Bind, "", "bind") // of both networks
	addAddr(c.API, "tcp", "api")
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		s, network, hint := c.Services[name], c.networkOf(name), ""
		if network == "" {
			hint = " (which may speak udp or not: a protocol says it)"
		}
		addAddr(s.Address, network, fmt.Sprintf("the address of service %q%s", name, hint))
		found := len(errs)
		for port := max(s.First, 1); port <= min(s.Last, maxPort) && len(errs) == found; port++ {
			add(hostOf(s.Address), port, network, fmt.Sprintf("the versions of service %q%s", name, hint))
		}
	}
	return errors.Join(errs...)
}

// networkOf is "tcp" or "udp"; "" where only a release says what a service speaks.
func (c Config) networkOf(name string) string {
	protocol := c.Services[name].Protocol
	if c.Adopt != nil && protocol == "" {
		protocol = c.Adopt.Services[name].Protocol
	}
	switch protocol {
	case "":
		return ""
	case bundle.ProtocolUDP:
		return "udp"
	}
	return "tcp"
}

// anyHost reports whether to listen on host is to listen on every address.
func anyHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
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

package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"moult/agent/control"
	"moult/store/bundle"
)

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
	if c.Metrics != "" {
		checkAddr("metrics", c.Metrics)
	}
	if c.SyncInterval < 50*time.Millisecond {
		bad("sync_interval = %v: at least 50ms", c.SyncInterval)
	}
	if !slices.Contains(EgressWords(), c.Egress) {
		bad("egress = %q: want %s", c.Egress, oneOf(EgressWords()))
	}
	if c.EgressOpen && c.Egress != EgressProxy && c.Egress != EgressAuto {
		bad("egress_open = true is for the proxy, and there is none with egress = %q: leave it out", c.Egress)
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
	return errors.Join(append(errs, c.checkTexts(), c.checkUser(), c.checkPaths(), c.Bounds.Check(), c.checkPorts())...)
}

// checkPaths checks what programs are let to. A folder above the data folder is no mistake:
// what is the agent's stays out of reach.
func (c Config) checkPaths() error {
	for field, paths := range map[string][]string{"readable": c.Readable, "writable": c.Writable} {
		if len(paths) > maxPaths {
			return fmt.Errorf("%s: %d paths, the most is %d", field, len(paths), maxPaths)
		}
		for _, path := range paths {
			if strings.ContainsRune(path, 0) || path == "" {
				return fmt.Errorf("%s: %q is no path", field, path)
			}
			if rel, err := filepath.Rel(c.Data, path); err == nil && filepath.IsLocal(rel) {
				return fmt.Errorf("%s: %s is in the data folder, which is the agent's own: leave it out", field, path)
			}
		}
	}
	return nil
}

// checkUser checks what keeps the node's programs from the agent. Whether this machine
// has the user is found out when the agent starts.
func (c Config) checkUser() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.User == "" {
		if c.Group != "" || len(c.Groups) > 0 {
			bad("group, supplementary_groups: they are of the user of the node's programs: say user, too")
		}
		return errors.Join(errs...)
	}
	if len(c.Groups) > maxGroups {
		bad("supplementary_groups: %d of them, the most is %d", len(c.Groups), maxGroups)
	}
	if c.API != "" && c.APIToken == "" {
		bad("api = %q: the node's programs run as user %s, who could command the agent by it: say api_token, too", c.API, c.User)
	}
	if c.Egress == EgressResolve {
		bad("egress = %q: the node's programs run as user %s, who may not use the agent's socket: use %q or %q", c.Egress, c.User, EgressProxy, EgressConnect)
	}
	return errors.Join(errs...)
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
	addAddr(c.Metrics, "tcp", "metrics")
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

package simlayer

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// Config says where a Layer listens. It does not change while the Layer lives.
type Config struct {
	Services map[string]Service
	// Egress is the host:port of the HTTP proxy for the node's own calls; "" for
	// none. Port 0 is any free port.
	Egress string
	// EgressSecret is what its callers must show; "" lets all programs call by it.
	EgressSecret string
	// Resolve finds a peer's service: dest is the host:port that the node calls.
	// If that is the public address of a peer's service, isPeer is true and addr
	// is that peer's address for callers of version v; err says why there is
	// none, in words for the caller. Needed where Egress is set. Resolve is
	// called concurrently and must not block.
	Resolve func(dest string, v bundle.Version) (addr string, isPeer bool, err error)
	// Processes are those of software that runs already, and Inherited are the
	// Sockets that it was given.
	Processes []int
	Inherited []Inherited
	// Sockets has the listening sockets of the layer before, and keeps those of this one for
	// the next (Layer.Leave); nil: nobody does.
	Sockets Keeper
	Log     *slog.Logger
	Limits  Limits // zero: DefaultLimits

	byProxy bool // net/http answers all that is simulated, for tests
}

// Service is where a service of the node is reached.
type Service struct {
	// Public is the host:port that callers configure.
	Public string
	// Host is where the versioned addresses are; "" is the host of Public.
	Host string
	// First and Last are their ports: version v has First + (v-1) modulo their
	// number. 0 and 0 are any free ports.
	First, Last int
	// Protocol is bundle.ProtocolHTTP, bundle.ProtocolTCP or bundle.ProtocolUDP.
	Protocol string
	// External is the version of callers of Public; 0 is Routing.External.
	External bundle.Version
	// Attach is how callers reach the node whose calls pass unchanged.
	Attach Attach
}

// versionPort returns the port for callers of version v, 0 for any.
func (s Service) versionPort(v bundle.Version) int {
	if s.First == 0 {
		return 0
	}
	return s.First + int((uint64(v)-1)%uint64(s.Last-s.First+1))
}

// versionAddr is where callers of version v come, perhaps with any port.
func (s Service) versionAddr(v bundle.Version) string {
	return net.JoinHostPort(s.host(), strconv.Itoa(s.versionPort(v)))
}

// apartVersions reports whether two of these versions have one port.
func (s Service) apartVersions(versions []bundle.Version) error {
	taken := map[int]bundle.Version{}
	for _, v := range versions {
		port := s.versionPort(v)
		if other, ok := taken[port]; ok && port != 0 {
			return fmt.Errorf("versions %d and %d both have port %d; widen the versioned ports %d to %d", other, v, port, s.First, s.Last)
		}
		taken[port] = v
	}
	return nil
}

func (s Service) host() string {
	if s.Host != "" {
		return s.Host
	}
	host, _, _ := net.SplitHostPort(s.Public) // Validate has seen to it
	return host
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if len(c.Services) > maxServices {
		errs = append(errs, fmt.Errorf("%d services, at most %d", len(c.Services), maxServices))
	}
	names := slices.Sorted(maps.Keys(c.Services))
	for i, name := range names {
		if err := c.Services[name].validate(); err != nil {
			errs = append(errs, fmt.Errorf("service %q: %w", name, err))
			continue
		}
		for _, other := range names[:i] {
			if err := c.Services[name].apart(c.Services[other]); err != nil {
				errs = append(errs, fmt.Errorf("services %q and %q: %w", other, name, err))
			}
		}
	}
	if c.Egress != "" {
		if _, _, err := stream.SplitAddr(c.Egress); err != nil {
			errs = append(errs, fmt.Errorf("egress: %w", err))
		}
		if c.Resolve == nil {
			errs = append(errs, errors.New("egress: there is no Resolve to find peers with"))
		}
	}
	if c.Limits != (Limits{}) {
		errs = append(errs, c.Limits.validate())
	}
	return errors.Join(errs...)
}

func (s Service) validate() error {
	_, port, err := stream.SplitAddr(s.Public)
	if err != nil {
		return fmt.Errorf("public address: %w", err)
	}
	switch s.Protocol {
	case bundle.ProtocolHTTP, bundle.ProtocolTCP, bundle.ProtocolUDP:
	default:
		return fmt.Errorf("protocol %q, want %q, %q or %q", s.Protocol, bundle.ProtocolHTTP, bundle.ProtocolTCP, bundle.ProtocolUDP)
	}
	if s.First == 0 && s.Last == 0 {
		return nil
	}
	if s.First < 1 || s.Last < s.First || s.Last > 65535 {
		return fmt.Errorf("versioned ports %d to %d, want a range within 1 to 65535", s.First, s.Last)
	}
	if port >= s.First && port <= s.Last {
		return fmt.Errorf("versioned ports %d to %d: the public port %d is among them", s.First, s.Last, port)
	}
	return nil
}

// apart reports whether the addresses of two services clash. Those of TCP and of UDP
// never do.
func (s Service) apart(o Service) error {
	if s.network() != o.network() {
		return nil
	}
	_, a, _ := stream.SplitAddr(s.Public)
	_, b, _ := stream.SplitAddr(o.Public)
	within := func(port int, s Service) bool { return port != 0 && port >= s.First && port <= s.Last }
	switch {
	case a != 0 && s.Public == o.Public:
		return fmt.Errorf("both have the public address %s", s.Public)
	case s.host() != o.host() && !anyHost(s.host()) && !anyHost(o.host()):
		return nil
	case s.First != 0 && o.First != 0 && s.First <= o.Last && o.First <= s.Last:
		return errors.New("their versioned ports overlap")
	case within(a, o), within(b, s):
		return errors.New("the public port of one is among the versioned ports of the other")
	}
	return nil
}

func anyHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// Routing says who answers which callers. A Layer takes a whole one at a time.
type Routing struct {
	// Native is the version of the node's software.
	Native bundle.Version
	// Backends are the software's private addresses by service: "host:port", or,
	// but for UDP, "unix:" and the path of a socket. All services, unless Down.
	// Where the software has inherited a socket it is that one's address.
	Backends map[string]string
	// Protocols are what services speak, where that has turned out to be another
	// protocol than Config has.
	Protocols map[string]string
	// Processes are those of the software, for AttachSteer.
	Processes []int
	// Down holds all calls.
	Down bool
	// HoldTimeout bounds the wait of one call; 0 is DefaultHoldTimeout.
	HoldTimeout time.Duration
	// Objects answer callers of other versions: Objects[w] answers w by calls of
	// the next version towards Native.
	Objects map[bundle.Version]Object
	// External is the version of callers of the public addresses; 0 is Native.
	External bundle.Version
	// Watched are versions whose callers come through the layer also where they
	// could go past it, so that Stats count them.
	Watched map[bundle.Version]bool
	// Egress is the version that labels the node's own calls: that of the
	// software that runs, also where it is not Native yet, or not any more; 0 is
	// Native.
	Egress bundle.Version
}

// Object answers callers of one version. Exactly one of its fields is set.
type Object struct {
	// Local answers in this process.
	Local so.Object
	// Addrs are where an object process answers, by service: "host:port", or
	// "unix:" and the path of a socket. What it answers is wholly its own affair:
	// it makes its calls of the next version by itself, so that all further
	// steps, and the node, come behind it. A service without an address is
	// refused to these callers.
	Addrs map[string]string

	// Observe, where it is not "", is the path at which the object process is told
	// of the calls of HTTP that the node answers to callers of its own version and
	// of older ones, as so.Observed; all calls of HTTP then come through the layer.
	// That is for the object next to Native on the newer side; another is told that
	// it misses calls. It may stand beside Local while the object is away for a
	// while. The path must be a secret, or callers could tell the object anything.
	Observe string
	// Told says that the object was told before, by a layer that is no more, so
	// that it may have missed something since.
	Told bool
}

// Equal reports whether o and p are the same object.
func (o Object) Equal(p Object) bool {
	return o.Local == p.Local && maps.Equal(o.Addrs, p.Addrs) && o.Observe == p.Observe && o.Told == p.Told
}

// InProcess makes Objects of objects that answer in this process.
func InProcess(objects map[bundle.Version]so.Object) map[bundle.Version]Object {
	out := make(map[bundle.Version]Object, len(objects))
	for v, o := range objects {
		out[v] = Object{Local: o}
	}
	return out
}

// Attach is how new connections of callers whose calls pass unchanged reach the
// node.
type Attach int

const (
	// AttachRelay: through the layer.
	AttachRelay Attach = iota
	// AttachInherit: to sockets that the software inherits (Layer.Sockets).
	AttachInherit
	// AttachSteer: to the socket on which the software listens by itself, at its
	// Backend, as package attach steers (Layer.SetSteer). Of UDP to the one that it
	// opens beside the layer's (Layer.Found); callers of the public address, which is
	// another, come through the layer.
	AttachSteer
)

func (s Service) network() string {
	if s.Protocol == bundle.ProtocolUDP {
		return "udp"
	}
	return "tcp"
}

// Inherited names one socket that software was given, and the layer's of
// the same address, for a layer that comes after this one.
type Inherited struct {
	Service string         `json:"service"`
	Version bundle.Version `json:"version"`
	// Addr is where both listen, host:port.
	Addr    string         `json:"addr"`
	Members attach.Members `json:"members"`
}

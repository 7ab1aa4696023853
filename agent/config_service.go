package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"moult/store/bundle"
)

// How callers of a service's public address reach the node.
const (
	AttachAuto    = "auto"    // the best that works here
	AttachRelay   = "relay"   // the agent accepts and relays
	AttachInherit = "inherit" // the node is started with the listening socket
	AttachSteer   = "steer"   // the kernel hands callers to the node's own socket
)

// How a node's calls find the peer's address for its version. A node has one
// way for all its services: a call says where it goes, not whose call it is.
const (
	EgressAuto    = "auto"    // the best that works here
	EgressProxy   = "proxy"   // by a proxy that its environment names
	EgressConnect = "connect" // the kernel rewrites the destination
	EgressResolve = "resolve" // the node asks the agent
)

// attachWords and egressWords list the words, for checks and messages.
func attachWords() []string {
	return []string{AttachAuto, AttachRelay, AttachInherit, AttachSteer}
}

func egressWords() []string {
	return []string{EgressAuto, EgressProxy, EgressConnect, EgressResolve}
}

// ServiceConfig says where one of the node's services is reached.
type ServiceConfig struct {
	Address     string // public host:port
	First, Last int    // ports of the versioned addresses: version v has First + (v-1) mod (Last-First+1)
	Attach      string // one of the Attach words
	// Protocol is the one that the file gives; empty: that of the release, or
	// http for adopted software.
	Protocol string
	External bundle.Version
}

// setEgress finds the node's one egress. It may stand in the agent block or in
// services, as long as they agree.
func (h agentHCL) setEgress(to *string) error {
	set(to, h.Egress)
	where := "egress"
	said := h.Egress != nil
	for _, s := range h.Services {
		if s.Egress == nil {
			continue
		}
		here := fmt.Sprintf("egress of service %q", s.Name)
		if said && *s.Egress != *to {
			return fmt.Errorf("%s = %q, but %s = %q: a node has one egress for all its calls; say it once, in the agent block", where, *to, here, *s.Egress)
		}
		if !said {
			*to, where, said = *s.Egress, here, true
		}
	}
	return nil
}

func (h serviceHCL) config() (ServiceConfig, error) {
	s := ServiceConfig{Address: h.Address, Attach: orElse(h.Attach, AttachAuto), Protocol: orElse(h.Protocol, "")}
	if h.External != nil {
		s.External = bundle.Version(*h.External)
	}
	first, last, ok := strings.Cut(h.Versions, "-")
	var err1, err2 error
	s.First, err1 = strconv.Atoi(first)
	s.Last, err2 = strconv.Atoi(last)
	if !ok || err1 != nil || err2 != nil {
		return s, fmt.Errorf("service %q: versions = %q: want a range of ports such as \"7001-7009\"", h.Name, h.Versions)
	}
	return s, nil
}

// checkWords checks what a service says by words. An empty word is the default.
func (s ServiceConfig) checkWords() error {
	protocols := []string{bundle.ProtocolHTTP, bundle.ProtocolTCP, bundle.ProtocolUDP}
	switch {
	case s.Attach != "" && !slices.Contains(attachWords(), s.Attach):
		return fmt.Errorf("attach = %q: want %s", s.Attach, oneOf(attachWords()))
	case s.Protocol != "" && !slices.Contains(protocols, s.Protocol):
		return fmt.Errorf("protocol = %q: want %s", s.Protocol, oneOf(protocols))
	}
	return nil
}

// oneOf lists words for a message.
func oneOf(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

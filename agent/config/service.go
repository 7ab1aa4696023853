package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"moult/store/bundle"
)

// Service says where one of the node's services is reached.
type Service struct {
	Address     string // public host:port, as callers dial it
	First, Last int    // ports of the versioned addresses: version v has First + (v-1) mod (Last-First+1)
	Attach      string // one of the Attach words
	// Protocol is the one that the file gives; empty: that of the release, or
	// http for adopted software.
	Protocol string
	External bundle.Version
}

// Host is that of the public address; "" where it has none.
func (s Service) Host() string { return hostOf(s.Address) }

func hostOf(addr string) string {
	host, _, err := splitAddr(addr)
	if err != nil {
		return ""
	}
	return host
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

func (h serviceHCL) config() (Service, error) {
	s := Service{Address: h.Address, Attach: orElse(h.Attach, AttachAuto), Protocol: orElse(h.Protocol, "")}
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

// checkAddress checks the public address, which peers and callers dial as it is
// written. advertise is the agent's own.
func (s Service) checkAddress(advertise string) error {
	host, port, err := splitAddr(s.Address)
	switch {
	case err != nil:
		return errors.New("want host:port")
	case port == 0:
		return errors.New("want the port that callers dial, 1 to 65535")
	case anyHost(host):
		mine := hostOf(advertise)
		if anyHost(mine) {
			mine = "10.0.0.5"
		}
		return fmt.Errorf("peers and callers dial it, so it must be an address of this machine, such as %q", net.JoinHostPort(mine, strconv.Itoa(port)))
	}
	return nil
}

// checkWords checks what a service says by words. An empty word is the default.
func (s Service) checkWords() error {
	protocols := []string{bundle.ProtocolHTTP, bundle.ProtocolTCP, bundle.ProtocolUDP}
	switch {
	case s.Attach != "" && !slices.Contains(AttachWords(), s.Attach):
		return fmt.Errorf("attach = %q: want %s", s.Attach, oneOf(AttachWords()))
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

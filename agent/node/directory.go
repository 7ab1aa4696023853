package node

import (
	"fmt"
	"strings"

	"moult/gossip/view"
	"moult/store/bundle"
)

// PublicAddr is an address of TCP or UDP: services of both may have one number.
type PublicAddr struct {
	Addr string
	UDP  bool
}

// Peer is who answers at a public address: where callers of each version reach it.
type Peer struct {
	Node     bundle.NodeID
	Name     string
	Versions map[bundle.Version]string
}

// Directory says where each service of each peer answers callers of each version.
type Directory map[PublicAddr]Peer

// list makes the directory anew from the view. A node speaks for its own machine: an
// address for callers of a version counts only at the host of the public address that
// it is for. Where two nodes say that one public address is theirs, as when a machine
// was installed anew, it is the one's that is alive, then the one's that had it; what
// a record says of times decides nothing, for whoever signs it chooses them.
func (n *Node) list() Directory {
	d := Directory{}
	clashes := map[string]string{}
	for r := range n.view.All() {
		if r.Left {
			continue
		}
		for _, name := range sorted(r.Services) {
			service := r.Services[name]
			own := ofHost(service.Public, service.Versions)
			if len(own) == 0 && len(service.Versions) > 0 {
				continue
			}
			public := PublicAddr{service.Public, service.Protocol == bundle.ProtocolUDP}
			owner, claimed := d[public]
			if claimed && owner.Node != r.Node {
				if n.alive[owner.Node] && n.alive[r.Node] {
					clashes[causeAddress(public)] = fmt.Sprintf("nodes %s (%s) and %s (%s) both say that %s is their address: give one of them another in its agent.hcl",
						owner.Name, owner.Node.Short(), r.Name, r.Node.Short(), public.Addr)
				}
				if !n.supersedes(r, owner, public) {
					continue
				}
			}
			d[public] = Peer{r.Node, r.Name, own}
		}
	}
	for _, cause := range n.clashes {
		if clashes[cause] == "" {
			n.alarm(cause, "")
		}
	}
	n.clashes = sorted(clashes)
	for _, cause := range n.clashes {
		n.alarm(cause, clashes[cause])
	}
	n.directory = d
	return d
}

// Directory is where peers answer now.
func (n *Node) Directory() Directory {
	if !n.listed {
		return n.list()
	}
	return n.directory
}

// supersedes reports whether r rather than owner has the address of both.
func (n *Node) supersedes(r view.Record, owner Peer, public PublicAddr) bool {
	if n.alive[owner.Node] != n.alive[r.Node] {
		return n.alive[r.Node]
	}
	return n.directory[public].Node == r.Node
}

// ofHost returns the addresses that are at the host of a public address.
func ofHost(public string, versions map[bundle.Version]string) map[bundle.Version]string {
	own := map[bundle.Version]string{}
	for _, v := range sorted(versions) {
		if hostOf(versions[v]) == hostOf(public) {
			own[v] = versions[v]
		}
	}
	return own
}

// hostOf returns an address without its port.
func hostOf(addr string) string { return addr[:max(strings.LastIndexByte(addr, ':'), 0)] }

package node

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
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
	here     bool // its agent is at the host of the address
}

// Directory says where each service of each peer answers callers of each version.
type Directory map[PublicAddr]Peer

// source is what the directory takes from a record.
type source struct {
	left       bool
	name, addr string
	services   map[string]view.ServiceAddr
}

// noteSource has the directory made anew where a record says something else of it.
func (n *Node) noteSource(r view.Record) {
	s := n.sources[r.Node]
	if r.Left != s.left || r.Name != s.name || r.Addr != s.addr || !maps.EqualFunc(r.Services, s.services, view.ServiceAddr.Equal) {
		n.sources[r.Node], n.listed = source{r.Left, r.Name, r.Addr, r.Services}, false
	}
}

// Directory is where peers answer, as the view says.
func (n *Node) Directory() Directory {
	d, _ := n.list()
	return d
}

// list makes the directory, and says which addresses several live nodes claim. A node
// speaks for its own machine: an address for callers of a version counts only at the
// host of the public address that it is for. Nothing is decided by what a record says
// of times, for whoever signs it chooses them. Nodes that do not belong to the cluster
// have no address, and who is enrolled at certain hosts has none elsewhere.
func (n *Node) list() (d Directory, clashes []string) {
	d = Directory{}
	if n.awaitsMembers() {
		return d, nil
	}
	for r := range n.view.All() {
		if r.Left || n.Stranger(r.Node) {
			continue
		}
		for _, name := range sorted(r.Services) {
			service := r.Services[name]
			public := PublicAddr{service.Public, service.Protocol == bundle.ProtocolUDP}
			if n.Closed() && !n.Members().MayHave(r.Node, hostOf(service.Public)) {
				continue
			}
			own := ofHost(service.Public, service.Versions)
			claim := Peer{Node: r.Node, Name: r.Name, Versions: own, here: hostOf(r.Addr) == hostOf(service.Public)}
			if len(own) == 0 && !claim.here {
				continue // it could only stand in the way
			}
			owner, claimed := d[public]
			if claimed && n.alive[owner.Node] && n.alive[r.Node] && owner.Node != r.Node {
				clashes = append(clashes, fmt.Sprintf("nodes %s (%s) and %s (%s) both say that %s is their address",
					owner.Name, owner.Node.Short(), r.Name, r.Node.Short(), public.Addr))
			}
			if !claimed || n.supersedes(claim, owner) {
				d[public] = claim
			}
		}
	}
	return d, clashes
}

// currentDirectory makes the directory anew where what it comes from has changed, and returns it
// where it is another by that.
func (n *Node) currentDirectory() Directory {
	if n.listed || n.awaitsMembers() {
		return nil
	}
	d, clashes := n.list()
	text := ""
	if len(clashes) > 0 {
		text = clashes[0] + ": give one of them another in its agent.hcl"
	}
	if more := len(clashes) - 1; more > 0 {
		text += fmt.Sprintf("; so it is with %d more", more)
	}
	n.alarm(causeAddress, text)
	if n.directory != nil && reflect.DeepEqual(d, n.directory) {
		n.listed = true
		return nil
	}
	return d
}

// supersedes reports whether an address that two nodes claim is the first one's: one
// that the operator has enrolled at its hosts, then one that is alive, then one whose agent
// is at that host. What is left all peers decide alike.
func (n *Node) supersedes(claim, owner Peer) bool {
	claims, owns := n.Members().Names(claim.Node), n.Members().Names(owner.Node)
	switch {
	case n.Closed() && claims != owns:
		return claims
	case n.alive[claim.Node] != n.alive[owner.Node]:
		return n.alive[claim.Node]
	case claim.here != owner.here:
		return claim.here
	}
	return bytes.Compare(claim.Node[:], owner.Node[:]) < 0
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

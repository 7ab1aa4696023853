package cluster

import (
	"moult/agent/control"
	"moult/store/bundle"
)

// Reachable counts the nodes that the ring reaches.
func Reachable(s control.Status) (n int) {
	for _, node := range s.Nodes {
		if node.Reachable {
			n++
		}
	}
	return n
}

// Settled counts the nodes that run version v or a later one, and nothing else.
func Settled(s control.Status, v bundle.Version) (n int) {
	for _, node := range s.Nodes {
		if node.Version >= v && node.Phase == "current" {
			n++
		}
	}
	return n
}

// Answering counts the nodes that answer callers of version v.
func Answering(s control.Status, v bundle.Version) (n int) {
	for _, node := range s.Nodes {
		if node.Services["api"].Versions[v] != "" {
			n++
		}
	}
	return n
}

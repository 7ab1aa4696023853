package report

import (
	"fmt"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Unheard are the nodes that count, of the class of a node that was restored, which it has not
// heard since; and what is said of that, "" where the node may go on. synced tells that it has heard
// anybody at all, which it must.
func Unheard(n *node.Node, class bundle.Class, heard map[bundle.NodeID]bool, synced bool) (missing []view.Record, text string) {
	var names []string
	gone := ""
	for _, r := range n.Known() {
		if r.Class != class || r.Node == n.Self() || heard[r.Node] || n.Standing(r) != schedule.StandingIn {
			continue
		}
		missing, names = append(missing, r), append(names, n.NameOf(r.Node))
		if !n.Alive(r.Node) && gone == "" {
			gone = fmt.Sprintf("; `moult skip %s` goes on without one that is gone", n.NameOf(r.Node))
		}
	}
	switch {
	case len(missing) > 0:
		text = fmt.Sprintf("this node was restored, and waits to hear from %s what it has signed since%s", few(names), gone)
	case !synced: // nor is it known before who counts
		text = "this node was restored, and waits to hear from any peer what it has signed since"
	}
	return missing, text
}

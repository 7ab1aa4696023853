package node

import (
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// KeptFiles lists the artifacts and the files of simulation objects that a peer keeps once
// it is in state s, beside those that are in use: of the last keptReleases, with all
// their platforms, since peers that were away take each on the way; and of what nodes run,
// however old it is: a class may not have changed for long.
func (n *Node) KeptFiles(s upgrade.State, used map[bundle.Digest]bool) (keep []bundle.Digest) {
	runs, agents := n.runs(s), bundle.Version(0)
	if o := n.newestOrder(); o != nil && o.Agents != nil {
		agents = o.Agents.Release // of which some may not be replaced yet
	}
	for _, v := range sorted(n.docs.manifests) {
		classes := n.docs.manifests[v].Classes
		for _, class := range sorted(classes) {
			cu := classes[class]
			kept := v+keptReleases > s.Version || runs[classRelease{class, v}]
			for _, blob := range cu.ObjectFiles() {
				if kept || used[blob.Digest] {
					keep = append(keep, blob.Digest)
				}
			}
			for _, art := range cu.Artifacts {
				if kept || used[art.Digest] {
					keep = append(keep, art.Digest)
				}
			}
		}
		if agent := n.docs.manifests[v].Agent; agent != nil {
			for _, art := range agent.Artifacts {
				if v == agents || v+keptReleases > s.Version || used[art.Digest] {
					keep = append(keep, art.Digest)
				}
			}
		}
	}
	return keep
}

// classRelease is what a release does to a class.
type classRelease struct {
	class   bundle.Class
	version bundle.Version
}

// runs tells whose software nodes run, or install first: of each class the newest until
// this node's version, what any node says that it runs, what all go back to where the newest
// release is taken back, and what this node is bound to.
func (n *Node) runs(s upgrade.State) map[classRelease]bool {
	runs, noted := map[classRelease]bool{}, map[classRelease]bool{}
	note := func(class bundle.Class, at bundle.Version) {
		if noted[classRelease{class, at}] {
			return
		}
		noted[classRelease{class, at}] = true
		newest := bundle.Version(0)
		for _, v := range sorted(n.docs.manifests) {
			if _, changes := n.docs.manifests[v].Classes[class]; changes && v <= at {
				newest = v
			}
		}
		runs[classRelease{class, newest}] = true
	}
	for _, v := range sorted(n.docs.manifests) {
		for _, class := range sorted(n.docs.manifests[v].Classes) {
			note(class, s.Version)
		}
	}
	// What others say of their finalizing does not remove what this node would need to go back.
	if o := n.newestOrder(); o != nil && n.docs.manifests[o.Release] != nil && !o.Finalized && s.Final < o.Release && goesBack(n.docs.manifests[o.Release]) {
		for _, class := range sorted(n.docs.manifests[o.Release].Classes) {
			note(class, o.Release-1)
		}
	}
	for r := range n.view.All() {
		if n.Stranger(r.Node) {
			continue // it could claim any
		}
		note(r.Class, r.Version)
		note(r.Class, r.Running)
	}
	for _, v := range sorted(s.Bound()) {
		note(n.cfg.Class, v)
	}
	note(n.cfg.Class, s.Running)
	return runs
}

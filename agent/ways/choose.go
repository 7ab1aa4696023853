package ways

import (
	"errors"
	"fmt"
	"strings"

	"moult/simlayer"
	"moult/simlayer/attach"
	"moult/simlayer/connect"
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

// AttachWords and EgressWords list the words, for checks and messages.
func AttachWords() []string { return []string{AttachAuto, AttachRelay, AttachInherit, AttachSteer} }
func EgressWords() []string { return []string{EgressAuto, EgressProxy, EgressConnect, EgressResolve} }

// Way is what was chosen, and why nothing better: "" where it is what was asked
// for, or the best.
type Way struct{ Kind, Why string }

// Attach is the layer's word for a way.
func (w Way) Attach() simlayer.Attach {
	switch w.Kind {
	case AttachSteer:
		return simlayer.AttachSteer
	case AttachInherit:
		return simlayer.AttachInherit
	}
	return simlayer.AttachRelay
}

// steerable says why nothing can be steered here; nil where it can.
func steerable() error {
	if _, err := attach.FindBPFFS(); err != nil {
		return err
	}
	return errors.Join(attach.Probe(attach.KindSteer), attach.Probe(attach.KindTake))
}

// inWords is an error on one line.
func inWords(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// connectable says why the kernel cannot rewrite the node's calls here; nil where it
// can.
func connectable(node bundle.NodeID) error {
	if _, err := attach.FindBPFFS(); err != nil {
		return err
	}
	return connect.Probe(connect.Options{Name: KernelName(node)})
}

func chooseAttach(asked string, steerable error) (Way, error) {
	switch asked {
	case AttachSteer:
		if steerable != nil {
			return Way{}, fmt.Errorf("attach = %q does not work here: %w; %q takes what does", asked, steerable, AttachAuto)
		}
		return Way{Kind: AttachSteer}, nil
	case AttachInherit:
		// Without taking, the next agent could not have the sockets back.
		if err := errors.Join(attach.Probe(attach.KindInherit), attach.Probe(attach.KindTake)); err != nil {
			return Way{}, fmt.Errorf("attach = %q does not work here: %w; %q takes what does", asked, err, AttachAuto)
		}
		return Way{Kind: AttachInherit}, nil
	case AttachRelay:
		return Way{Kind: AttachRelay}, nil
	}
	if steerable != nil {
		return Way{Kind: AttachRelay, Why: "steer: " + inWords(steerable)}, nil
	}
	return Way{Kind: AttachSteer}, nil
}

func chooseEgress(asked string, connectable error) (Way, error) {
	switch asked {
	case EgressConnect:
		if connectable != nil {
			return Way{}, fmt.Errorf("egress = %q does not work here: %w; %q takes what does", asked, connectable, EgressAuto)
		}
		return Way{Kind: EgressConnect}, nil
	case EgressProxy, EgressResolve:
		return Way{Kind: asked}, nil
	}
	if connectable != nil {
		return Way{Kind: EgressProxy, Why: "connect: " + inWords(connectable)}, nil
	}
	return Way{Kind: EgressConnect}, nil
}

package ways

import (
	"errors"
	"fmt"
	"strings"

	"moult/agent/config"
	"moult/simlayer"
	"moult/simlayer/attach"
	"moult/simlayer/connect"
	"moult/store/bundle"
)

// Way is what was chosen, and why nothing better: "" where it is what was asked
// for, or the best.
type Way struct{ Kind, Why string }

// Attach is the layer's word for a way.
func (w Way) Attach() simlayer.Attach {
	switch w.Kind {
	case config.AttachSteer:
		return simlayer.AttachSteer
	case config.AttachInherit:
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
	case config.AttachSteer:
		if steerable != nil {
			return Way{}, fmt.Errorf("attach = %q does not work here: %w; %q takes what does", asked, steerable, config.AttachAuto)
		}
		return Way{Kind: config.AttachSteer}, nil
	case config.AttachInherit:
		// Without taking, the next agent could not have the sockets back.
		if err := errors.Join(attach.Probe(attach.KindInherit), attach.Probe(attach.KindTake)); err != nil {
			return Way{}, fmt.Errorf("attach = %q does not work here: %w; %q takes what does", asked, err, config.AttachAuto)
		}
		return Way{Kind: config.AttachInherit}, nil
	case config.AttachRelay:
		return Way{Kind: config.AttachRelay}, nil
	}
	if steerable != nil {
		return Way{Kind: config.AttachRelay, Why: "steer: " + inWords(steerable)}, nil
	}
	return Way{Kind: config.AttachSteer}, nil
}

func chooseEgress(asked string, connectable error) (Way, error) {
	switch asked {
	case config.EgressConnect:
		if connectable != nil {
			return Way{}, fmt.Errorf("egress = %q does not work here: %w; %q takes what does", asked, connectable, config.EgressAuto)
		}
		return Way{Kind: config.EgressConnect}, nil
	case config.EgressProxy, config.EgressResolve:
		return Way{Kind: asked}, nil
	}
	if connectable != nil {
		return Way{Kind: config.EgressProxy, Why: "connect: " + inWords(connectable)}, nil
	}
	return Way{Kind: config.EgressConnect}, nil
}

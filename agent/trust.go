package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"moult/agent/control"
	"moult/agent/node"
	"moult/gossip"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// noteEvidence tells the node of a validly signed set, where it is evidence against the
// publisher, and keeps it if the node does.
func (l *loop) noteEvidence(v *trust.Verified) {
	if len(trust.Conflicts(l.trust, v)) == 0 {
		return
	}
	l.sets[v.Digest()] = v
	l.step(node.MetadataSeen{Metadata: node.MetadataOf(v)})
	l.noteSets()
}

// noteSets forgets the sets that the node has no use for.
func (l *loop) noteSets() {
	inForce, evidence := l.node.Metadata().Digest, l.node.Evidence().Digest
	l.trust = l.sets[inForce]
	maps.DeleteFunc(l.sets, func(d bundle.Digest, _ *trust.Verified) bool { return d != inForce && d != evidence })
}

// acceptSet judges a set that somebody handed over. When it returns nil, the
// set is in force, durably; the set in force handed over again is no error.
func (l *loop) acceptSet(raw []byte) error {
	next, err := l.judgeSet(raw)
	if err != nil {
		return err
	}
	if next.Digest() == l.trust.Digest() {
		return l.checkKept()
	}
	return l.adopt(next)
}

// adopt brings a set that judgeSet has passed into force.
func (l *loop) adopt(next *trust.Verified) error {
	if _, err := l.PutSet(next); err != nil { // what cannot be kept does not come into force
		return fmt.Errorf("%w: %w", errNotKept, err)
	}
	l.sets[next.Digest()] = next
	l.signed = append(l.signed, l.news(l.trust, next)...)
	l.step(verified(l.trust, next))
	l.noteSets()
	l.flush()
	return l.checkKept()
}

// news are the documents that next names and before did not, the newest maxSigned of each kind.
func (l *loop) news(before, next *trust.Verified) (all []control.HistorySigned) {
	add := func(kind string, n bundle.Version, now, was trust.Ref) {
		if now == was {
			return
		}
		s := control.HistorySigned{Kind: kind, Release: n, Digest: now.Digest, Role: control.RoleOperator, Keys: next.Operators()}
		switch kind {
		case control.SignedRelease:
			s.Role, s.Keys = control.RolePublisher, next.Publishers()
		case control.SignedOrder:
			if data, ok, err := l.Depot.Blob(now.Digest); err == nil && ok {
				s.Says = control.OrderSays(data)
			}
		}
		all = append(all, s)
	}
	for _, n := range last(next.Releases(), maxSigned) {
		now, _ := next.Release(n)
		was, _ := before.Release(n)
		add(control.SignedRelease, n, now, was)
	}
	now, _ := next.Members()
	was, _ := before.Members()
	add(control.SignedMembers, 0, now.Ref, was.Ref)
	for _, n := range last(next.Orders(), maxSigned) {
		now, _ := next.Order(n)
		was, _ := before.Order(n)
		add(control.SignedOrder, n, now, was)
	}
	return all
}

func last(vs []bundle.Version, most int) []bundle.Version { return vs[max(0, len(vs)-most):] }

// errNotKept says that metadata are good, and not stored. They may be handed over again.
var errNotKept = errors.New("metadata are not kept")

// checkKept reports why what is in force may not be durable.
func (l *loop) checkKept() error {
	switch {
	case l.broken != nil:
		return fmt.Errorf("%w: %w", errNotKept, l.broken)
	case l.node.Refusing():
		return fmt.Errorf("%w: the disk of this peer is full; make room there, and hand them over again", errNotKept)
	}
	return nil
}

func verified(inForce, next *trust.Verified) node.MetadataVerified {
	return node.MetadataVerified{Metadata: node.MetadataOf(next), KeysReplaced: trust.Thaws(inForce, next)}
}

// judgeSet verifies a set and reports why it must not come into force. What it
// proves counts in any case: a set that contradicts the one in force freezes
// the releases that they disagree about, also when it is refused.
func (l *loop) judgeSet(raw []byte) (*trust.Verified, error) {
	alone, err := l.Verify(raw)
	if err != nil {
		return nil, err
	}
	l.noteEvidence(alone)
	if alone.Digest() == l.trust.Digest() {
		return l.trust, nil
	}
	next, err := trust.Verify(l.FirstRoot, l.trust, alone.Set())
	if err != nil {
		return nil, err
	}
	if err := l.node.JudgeMetadata(node.MetadataOf(next)); err != nil {
		l.step(verified(l.trust, next)) // which says that there are two of one number
		return nil, err
	}
	return next, nil
}

// accept takes a set with its documents from an operator or a publisher, and
// announces it: peers that hear of it by anti-entropy later need not.
func (l *loop) accept(signed control.Signed) error {
	v, err := l.judgeSet(signed.Set)
	if err != nil {
		return control.Refused(fmt.Errorf("signed metadata refused: %w", err), "another operator may have signed something in between: try again")
	}
	for n, data := range signed.Orders {
		if err := l.checkOrder(v, n, data); err != nil {
			return control.Refused(err, "look at `moult status`: somebody else may have changed the rollout meanwhile")
		}
	}
	docs := slices.Collect(maps.Values(signed.Orders))
	if signed.Members != nil {
		if err := checkMembers(v, signed.Members); err != nil {
			return control.Refused(err, "somebody else may have changed it meanwhile: try again")
		}
		docs = append(docs, signed.Members)
	}
	for _, data := range docs {
		if _, err := l.Depot.PutBlob(data); err != nil {
			return err
		}
	}
	if v.Digest() == l.trust.Digest() { // handed over again; the documents may be news
		l.step(node.LookAgain{})
		l.flush()
		return l.checkKept()
	}
	if err := l.adopt(v); err != nil {
		return err
	}
	l.announce()
	return nil
}

// announce tells the ring that there is news here.
func (l *loop) announce() {
	if err := l.ring.Announce(gossip.Hint{Timestamp: l.trust.Versions().Timestamp, Digest: l.trust.Digest()}); err != nil {
		l.log.Warn("announcement not sent, anti-entropy will spread the news", "err", err)
	}
}

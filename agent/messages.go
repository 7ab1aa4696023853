package agent

import (
	"context"
	"time"

	"moult/agent/backup"
	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/objects"
	"moult/agent/selfupdate"
	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
)

// message is what the loop is told or asked by what runs beside it. This file lists all
// of them, and handle says what the loop does about each.
type message interface{ message() }

// told is part of each message that has no answer.
type told struct{}

func (told) message() {}

// asked is part of each message that has an answer.
type asked[T any] struct{ to chan answered[T] }

type answered[T any] struct {
	value T
	err   error
}

func (*asked[T]) message() {}

func (q *asked[T]) expect() <-chan answered[T] {
	q.to = make(chan answered[T], 1) // the loop does not wait for who asked
	return q.to
}

func (q *asked[T]) answer(value T, err error) { q.to <- answered[T]{value, err} }

// done is the answer of what is only to be waited for.
type done struct{}

// What happens beside the loop.
type (
	// happened is an event of the node's.
	happened struct {
		told
		event node.Event
	}
	// troubled says why an action does not get on; it counts only while that is under way.
	troubled struct {
		told
		action context.Context
		text   string
	}
	softwareSaid struct {
		asked[done]
		event software.Event
	}
	objectsSaid struct {
		told
		event objects.Event
	}
	ringChanged struct{ told }
	// exchanged: all that a peer knew is known.
	exchanged struct {
		told
		with bundle.NodeID
	}
	pastStatesKept struct{ told }
)

// What actions and checks need.
type (
	classUpgradeWanted struct {
		asked[bundle.ClassUpgrade]
		release bundle.Version
	}
	planWanted struct {
		asked[software.Plan]
		version bundle.Version
	}
	runningWanted struct{ asked[bundle.Version] }
	// callersWanted has callers let in to the software that runs; the answer comes when
	// they are.
	callersWanted struct{ asked[done] }
	// partingWanted has the simulation objects told that the software is about to end.
	partingWanted struct{ asked[done] }
	// samplingEnds has nobody ask the software for facts; the answer is closed when nobody
	// does any more, and nil where nobody has.
	samplingEnds struct{ asked[<-chan struct{}] }
	// objectsWanted asks whether objects follow what was decided; the answer is closed
	// when those have that do not yet, and nil where all do.
	objectsWanted struct{ asked[<-chan struct{}] }
)

// What people and programs ask by the control API.
type (
	statusWanted struct {
		asked[control.Status]
		heard map[bundle.NodeID]bool
	}
	membersWanted struct{ asked[[]control.Member] }
	whyWanted     struct {
		asked[control.Why]
		node string
	}
	recordWanted struct {
		asked[view.Record]
		node string
	}
	trustWanted struct{ asked[control.Trust] }
	// callingWanted asks as which version the software calls its peers.
	callingWanted   struct{ asked[bundle.Version] }
	documentsHanded struct {
		asked[control.Accepted]
		signed control.Signed
	}
	leaveWanted struct{ asked[upgrade.Phase] }
	// backupWanted asks what a backup is of, now.
	backupWanted struct{ asked[backup.About] }
	// switchWanted has this agent give way to another build, which was checked.
	switchWanted struct {
		asked[done]
		build    selfupdate.Build
		deadline time.Duration
	}

	// rehearsalDemanded asks whether a rehearsal may begin; who gets the demand ends it.
	rehearsalDemanded struct{ asked[demand] }
	// wayWanted asks by which releases the node would go to that of a bundle.
	wayWanted struct {
		asked[way]
		bundle *archive.Bundle
	}

	injectionBegun  struct{ asked[done] }
	injectionEnded  struct{ told }
	judgementWanted struct {
		asked[bool]
		bundle *archive.Bundle
		set    *trust.Verified
		orders map[bundle.Version][]byte
	}
	bundleKept struct {
		asked[control.Accepted]
		bundle      *archive.Bundle
		set         *trust.Verified
		signed      control.Signed
		contentOnly bool
	}
)

// What peers ask and bring.
type (
	// numberWanted asks for the number of the newest record of a node that is known here.
	numberWanted struct {
		asked[uint64]
		node bundle.NodeID
	}
	bucketsWanted struct{ asked[[]uint64] }
	stampsWanted  struct {
		asked[[]view.Stamp]
		buckets []int
	}
	recordsWanted struct {
		asked[[]view.Signed]
		nodes []bundle.NodeID
	}
	recordsBrought struct {
		asked[[]view.Signed]
		from    bundle.NodeID
		records []view.Signed
	}
	trustHeadWanted struct{ asked[trustHead] }
	setWanted       struct {
		asked[*trust.Verified]
		digest bundle.Digest
	}
	setBrought struct {
		asked[bool]
		from bundle.NodeID
		set  []byte
	}
)

// handle does what a message says.
func (l *loop) handle(m message) {
	switch m := m.(type) {
	case happened:
		l.step(m.event)
	case troubled:
		if m.action.Err() == nil {
			l.step(node.Trouble{Text: m.text})
		}
	case *softwareSaid:
		l.noteSoftware(m.event)
		m.answer(done{}, nil)
	case objectsSaid:
		l.noteObjects(m.event)
	case ringChanged:
		l.noteMembers()
	case exchanged:
		l.exchanged(m.with)
	case pastStatesKept:
		l.sweepPastLater()

	case *classUpgradeWanted:
		m.answer(l.classUpgrade(m.release))
	case *planWanted:
		m.answer(l.planOf(m.version))
	case *runningWanted:
		m.answer(l.node.State().Running, nil)
	case *callersWanted:
		l.letIn(m)
	case *partingWanted:
		l.objects.Part()
		m.answer(done{}, nil)
	case *samplingEnds:
		l.sampling.end()
		m.answer(l.sampled, nil)
	case *objectsWanted:
		l.route()
		m.answer(l.objects.Following())

	case *statusWanted:
		m.answer(l.status(m.heard), nil)
	case *membersWanted:
		m.answer(l.members(), nil)
	case *whyWanted:
		m.answer(l.report().Why(m.node))
	case *recordWanted:
		m.answer(l.report().Find(m.node))
	case *trustWanted:
		m.answer(l.documents())
	case *callingWanted:
		m.answer(l.calling(), nil)
	case *documentsHanded:
		m.answer(l.takeDocuments(m.signed))
	case *switchWanted:
		m.answer(done{}, l.giveWay(m.build, m.deadline))
	case *backupWanted:
		m.answer(l.backUp())
	case *leaveWanted:
		m.answer(l.leave(), nil)
	case *rehearsalDemanded:
		m.answer(l.letRehearse())
	case *wayWanted:
		m.answer(l.wayTo(m.bundle))
	case *injectionBegun:
		l.injecting++
		m.answer(done{}, nil)
	case injectionEnded:
		l.injecting--
	case *judgementWanted:
		m.answer(l.judgeBundle(m.bundle, m.set, m.orders))
	case *bundleKept:
		m.answer(l.takeBundle(m))

	case *numberWanted:
		m.answer(l.numberOf(m.node), nil)
	case *bucketsWanted:
		m.answer(l.node.View().Buckets(), nil)
	case *stampsWanted:
		m.answer(l.stamps(m.buckets), nil)
	case *recordsWanted:
		m.answer(l.records(m.nodes), nil)
	case *recordsBrought:
		m.answer(l.merge(m.from, m.records), nil)
	case *trustHeadWanted:
		m.answer(l.trustHead(), nil)
	case *setWanted:
		m.answer(l.sets[m.digest], nil)
	case *setBrought:
		m.answer(l.takeSet(m.from, m.set), nil)
	}
}

// question is a message with an answer.
type question[T any] interface {
	message
	expect() <-chan answered[T]
}

// ask asks the loop, and waits for the answer. The loop itself must not.
func ask[T any](a *Agent, q question[T]) (T, error) { return askWithin(context.Background(), a, q) }

func askWithin[T any](ctx context.Context, a *Agent, q question[T]) (value T, err error) {
	to := q.expect()
	a.send(q)
	select {
	case r := <-to:
		return r.value, r.err
	case <-ctx.Done():
		return value, ctx.Err()
	case <-a.stopped:
	}
	select {
	case r := <-to: // the last that it has answered
		return r.value, r.err
	default:
		return value, errStopped
	}
}

// tell tells the node, by way of the loop, what has happened beside it.
func (a *Agent) tell(e node.Event) { a.send(happened{event: e}) }

// send hands a message to the loop; it is lost when the loop has ended. The loop itself
// must not.
func (a *Agent) send(m message) {
	select {
	case a.inbox <- m:
	case <-a.stopped:
	}
}

package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Why answers for any node: what it says of itself, and for a waiting one what the schedule
// says of it here.
func (p Peer) Why(node string) (control.Why, error) {
	r, err := p.Find(node)
	if err != nil {
		return control.Why{}, err
	}
	w := control.Why{Node: r.Name, ID: r.Node, Phase: string(r.Phase), Version: r.Stands(), Runs: p.runs(r), Target: r.Target, Reason: r.Reason}
	name, head, at := p.Node.NameOf(r.Node), p.Node.Head(), r.Stands()
	o := p.Node.Orders()[p.Node.Rolling()]
	back := o != nil && o.Back()
	w.Node, w.Agent = cmp.Or(r.Name, name), p.whyAgent(r, o)
	switch {
	case r.Phase == "":
		w.Code, w.Command = "unknown", "moult forget "+name
		w.Reason = "nothing is known of it except that a rollout order names it"
	case r.Left:
		w.Code, w.Command = "left", p.forgetCommand(name)
		w.Reason = "its agent has left the ring, and no later release waits for it: start the agent again, or have the node forgotten"
	case p.Node.Standing(r) == schedule.StandingStranger:
		w.Code, w.Command = "not-enrolled", "moult member add "+name
		w.Reason = "it is not enrolled, so no rollout includes it and other nodes' calls do not reach it: enrol it, if it is yours"
	case p.Node.Standing(r) != schedule.StandingIn && !p.Node.Alive(r.Node):
		w.Code, w.Command = string(p.Node.Standing(r)), p.forgetCommand(name)
		w.Reason = "it cannot be reached, and no rollout waits for it: start its agent again, or have the node forgotten"
	case r.Node != p.ID && !p.Node.Alive(r.Node):
		w.Code, w.Reason = "unreachable", p.unreachable(r)
		if o != nil && o.Names(r.Class, r.Node) && !o.Arrived(r) {
			w.Command = fmt.Sprintf("moult skip --release %d %s", o.Release, name)
		} else {
			w.Command = p.forgetCommand(name)
		}
	case r.Held:
		w.Code, w.Command = "held", "moult retry "+name
		o := p.Node.Orders()[head]
		aborted := o != nil && o.State == schedule.StateAborted
		next, from, withdrawn := p.afterWithdrawn(r.Class)
		switch v := p.inTheWay(r.Class); {
		case withdrawn:
			w.Command = "moult inject BUNDLE"
			w.Reason += fmt.Sprintf("; that is withdrawn: release %d, built with from = %d, goes around it", next, from)
		case aborted && v != 0:
			w.Command = fmt.Sprintf("moult withdraw --class %s %d", r.Class, v)
			w.Reason += fmt.Sprintf("; its rollout is aborted: withdraw release %d for the next one to go around it, or inject one that its nodes can take on top of it", v)
		case aborted:
			w.Command = "moult inject BUNDLE"
		case v != 0 && r.Running < v:
			w.Reason += fmt.Sprintf("; if it cannot be mended here, `moult withdraw --class %s %d` has the next release go around it", r.Class, v)
		}
	case at >= head && !back && (r.Health.Unwell() || p.failedSoak(r, head)):
		w.Code, w.Reason, w.Command = p.whyUnwell(r, head)
		w.Reason += p.orBack(w.Code, o)
	case at >= head && !back && r.Target == 0:
		w.Code, w.Reason = "current", "it waits for nothing: it is at the newest release"+p.whenFinal(o)
	case back && o.Arrived(r):
		w.Code, w.Reason, w.Command = p.whyBack(r, o)
	case r.Phase == upgrade.Current, waits(r):
		d := p.decision(r)
		w.Code, w.Command, w.Reason = d.Code, d.Command, p.waitsFor(r)
		if d.Code == schedule.CodePromise && r.Phase == upgrade.Current && cannotTurn(r.Reason) {
			w.Reason, w.Command = r.Reason, "moult inject BUNDLE" // it cannot go where the order leads
			if o.FinalBy(r) {
				w.Command = fmt.Sprintf("moult revert --undo %d", o.Release)
			}
		}
		w.Reason += copyWarning(r) + p.orBack(w.Code, o)
	case r.Phase == upgrade.Rehearsing:
		w.Code, w.Reason, w.Command = p.whyRehearses(r)
	default:
		w.Code = "under way"
		if w.Reason == "" {
			w.Reason = fmt.Sprintf("it has been %s since %s", r.Phase, r.Since.Format(time.RFC3339))
		}
	}
	return w, nil
}

func cannotTurn(reason string) bool { return node.CannotTurn(reason) }

// orBack adds to what stops a rollout that its release can be taken back, where it can.
func (p Peer) orBack(code string, o *schedule.Order) string {
	if back := p.wayBack(o); back != "" && slices.Contains([]string{codeSoakFailed, schedule.CodeUnwell, schedule.CodeStopped, schedule.CodeHoldIf}, code) {
		return "; " + back
	}
	return ""
}

// whenFinal tells when a release is finalized by its own word, as far as this agent knows.
func (p Peer) whenFinal(o *schedule.Order) string {
	if o == nil || o.FinalizeAfter == 0 || o.Finalized {
		return ""
	}
	f := p.Node.Finalizing()
	switch {
	case p.Node.State().Final >= o.Release || f.Now:
		return fmt.Sprintf("; release %d is finalized, by its own finalize_after", o.Release)
	case !f.At.IsZero():
		return fmt.Sprintf("; it is finalized on %s, if all stay well, and is not taken back any more then (`moult revert %d` before does)", f.At.Format(time.RFC3339), o.Release)
	case f.Reason != "":
		return fmt.Sprintf("; it is finalized %s after all have settled and are well; that does not go on, since %s", o.FinalizeAfter, f.Reason)
	}
	return ""
}

// codeSoakFailed: the software of a canary was not well in its soak.
const codeSoakFailed = "soak-failed"

// whyBack tells of a node that has taken a release back.
func (p Peer) whyBack(r view.Record, o *schedule.Order) (code, reason, command string) {
	if r.Health.Unwell() {
		return schedule.CodeUnwell, fmt.Sprintf("release %d is taken back here, and the software of before is %s: %s; see log/node.log of its data folder", o.Release, r.Health.State, r.Health.Reason), ""
	}
	return "current", fmt.Sprintf("it waits for nothing: release %d is taken back here", o.Release), fmt.Sprintf("moult revert --undo %d", o.Release)
}

// unreachable tells of a node that counts and cannot be reached.
func (p Peer) unreachable(r view.Record) string {
	since := ""
	if away := p.Node.Away(r.Node); !away.IsZero() {
		since = fmt.Sprintf(" since %s (for %s)", away.Format(time.RFC3339), bundle.Duration(p.Now.Sub(away).Round(time.Second)))
	}
	return fmt.Sprintf("its agent cannot be reached%s; it last said that it was %s: start it again, or, if it is gone for good, go on without it", since, r.Phase)
}

// runs is the version that a node runs, where that is not the software of the one that
// it says it is at: it was admitted and has not settled, or the data folder is older. 0
// where it is, for all that is known here.
func (p Peer) runs(r view.Record) bundle.Version {
	lo, hi := min(r.Running, r.Stands()), max(r.Running, r.Stands())
	manifests := p.Node.Manifests()
	for _, v := range slices.Sorted(maps.Keys(manifests)) {
		if _, changes := manifests[v].Classes[r.Class]; changes && r.Running != 0 && lo < v && v <= hi {
			return r.Running
		}
	}
	return 0
}

// failedSoak reports that the failure of a node in its soak holds up the rollout of a
// release.
func (p Peer) failedSoak(r view.Record, release bundle.Version) bool {
	o, failed := p.Node.Orders()[release], r.Health.Failed
	if o == nil || failed.Release != release {
		return false
	}
	places := o.Attempts(r.Class, r.Node)
	return places > 0 && failed.Count >= places
}

// whyUnwell tells what is wrong with the software of a node at the newest release, and
// how others may go on all the same.
func (p Peer) whyUnwell(r view.Record, head bundle.Version) (code, reason, command string) {
	reason = "its software failed in its soak, and is well now"
	if r.Health.Unwell() {
		reason = fmt.Sprintf("its software is %s: %s; see log/node.log of its data folder", r.Health.State, r.Health.Reason)
	}
	if p.failedSoak(r, head) {
		return codeSoakFailed, reason + fmt.Sprintf("; it counts as failed under release %d until its soak is tried again", head), fmt.Sprintf("moult retry --release %d %s", head, p.Node.NameOf(r.Node))
	}
	if c := schedule.Summary(p.Node.Orders()[head], p.Node.View().Get).Classes[r.Class]; c.Waiting > 0 {
		reason += fmt.Sprintf("; %d nodes of its class wait for it", c.Waiting)
		command = fmt.Sprintf("moult skip --release %d %s", head, p.Node.NameOf(r.Node))
	}
	return schedule.CodeUnwell, reason, command
}

// waits reports that a node waits for the schedule's word.
func waits(r view.Record) bool {
	return r.Phase == upgrade.Waiting || r.Phase == upgrade.Rehearsing && node.IsWait(r.Reason)
}

// whyRehearses tells of a node that rehearses, and where that cannot be done, how others go
// on without it.
func (p Peer) whyRehearses(r view.Record) (code, reason, command string) {
	reason = fmt.Sprintf("it has been rehearsing release %d since %s: nobody goes down before that has ended", r.Target, r.Since.Format(time.RFC3339))
	if r.Reason != "" {
		return "rehearsal", r.Reason + "; mend that, or go on without it", fmt.Sprintf("moult skip --release %d %s", r.Target, p.Node.NameOf(r.Node))
	}
	return "under way", reason, ""
}

// decision is why a node may or may not go down, or rehearse, as far as this peer knows;
// of this node itself, as it was last decided.
func (p Peer) decision(r view.Record) schedule.Reason {
	release := max(r.Target, p.Node.Head())
	if o := p.Node.Orders()[p.Node.Rolling()]; o != nil && o.Back() {
		release = o.Release
	}
	return p.decisionUnder(r, release)
}

func (p Peer) decisionUnder(r view.Record, release bundle.Version) schedule.Reason {
	if wait := p.Node.Waits(); r.Node == p.ID && wait.Code != "" && wait.Retry == 0 {
		return wait
	}
	in := p.Node.Input(release)
	in.Self, in.Class, in.Synced = r.Node, r.Class, true
	if r.Phase == upgrade.Rehearsing {
		return schedule.MayRehearse(in).Reason
	}
	return schedule.Decide(in).Reason
}

// waitsFor tells it in words.
func (p Peer) waitsFor(r view.Record) string {
	d := p.decision(r)
	return strings.TrimSuffix(p.inWords(r, d)+"; "+d.Note, "; ")
}

func (p Peer) inWords(r view.Record, d schedule.Reason) string {
	switch {
	case d.Code == schedule.CodeGo && r.Phase == upgrade.Current && r.Reason != "":
		return r.Reason // the schedule is not what it waits for
	case d.Code == schedule.CodeGo:
		return "nothing holds it back, as far as this peer knows"
	case d.Retry > 0:
		return fmt.Sprintf("%s; %s to go", d.Text, bundle.Duration(d.Retry.Round(time.Second)))
	case d.Text != "":
		return d.Text
	}
	return r.Reason
}

// Find returns the record of a node by its name or a unique prefix of its ID.
func (p Peer) Find(node string) (view.Record, error) {
	return control.Find(p.Node.Known(), node, func(r view.Record) (string, bundle.NodeID) { return r.Name, r.Node })
}

// copyWarning is what a node warns of that will copy its state.
func copyWarning(r view.Record) string {
	if i := slices.IndexFunc(r.Alarms, upgrade.IsCopyWarning); i >= 0 {
		return "; " + r.Alarms[i]
	}
	return ""
}

// forgetCommand has a node forgotten; "" before any rollout order is signed, which says so.
func (p Peer) forgetCommand(name string) string {
	if len(p.Node.Orders()) == 0 {
		return ""
	}
	return "moult forget " + name
}

package view

// Phase is where a node is on its way to a release. The words are those that status
// records and people see; package upgrade says what ends each.
type Phase string

// The phases, in the order of a successful upgrade; the last two are the way back.
const (
	Current      Phase = "current"
	Fetching     Phase = "fetching"
	Rehearsing   Phase = "rehearsing"
	Waiting      Phase = "waiting"
	Draining     Phase = "draining"
	Transforming Phase = "transforming"
	Starting     Phase = "starting"
	Probing      Phase = "probing"
	Settled      Phase = "settled"
	RollingBack  Phase = "rolling back"
	Held         Phase = "held"
)

// Phases lists every phase.
func Phases() []Phase {
	return []Phase{Current, Fetching, Rehearsing, Waiting, Draining, Transforming, Starting, Probing, Settled, RollingBack, Held}
}

// Ahead reports whether a node in this phase is on its way to a release and has not gone
// down for it.
func (p Phase) Ahead() bool { return p == Fetching || p == Rehearsing || p == Waiting }

// Down reports whether a node in this phase is voluntarily out of service:
// its callers are held.
func (p Phase) Down() bool {
	switch p {
	case Draining, Transforming, Starting, RollingBack:
		return true
	}
	return false
}

package node

import (
	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Event is something that happened.
type Event interface{ event() }

type (
	// Tick says that time has passed. It comes now and then; nothing is exact.
	Tick struct{}
	// ActionEnded answers an action of the machine.
	ActionEnded struct{ Answer upgrade.Event }
	// Trouble says why the action under way does not get on; "" for nothing.
	Trouble struct{ Text string }
	// Progress says how much of the fetching is done, 0 to 1.
	Progress struct{ Share float64 }
	// CheckEnded answers Ready.Check. A Problem says why the node cannot go down.
	CheckEnded struct {
		Step    uint64
		Problem string
	}

	// CopyMeasured says how long a copy of the state is likely to take. It comes when the
	// node begins to wait for its turn.
	CopyMeasured struct{ upgrade.Copies }

	// MetadataSeen says that a set exists that keys in force have signed, whether or
	// not it may come into force. What it proves counts in any case.
	MetadataSeen struct{ Metadata }
	// MetadataVerified says that a set was verified on top of the one in force. It
	// comes into force if it is newer. KeysReplaced: it does away with the keys that
	// signed the releases in force, so that these are evidence against nobody.
	MetadataVerified struct {
		Metadata
		KeysReplaced bool
	}
	// LookAgain says that the disk may have documents that it had not before.
	LookAgain struct{}
	// ManifestRead and OrderRead are documents that have arrived, and whose digest
	// is that of their Document.
	ManifestRead struct {
		Document
		Manifest *bundle.Manifest
	}
	OrderRead struct {
		Document
		Order *schedule.Order
	}
	// MembersRead is the document of who belongs to the cluster, likewise.
	MembersRead struct {
		Document
		Members *membership.Membership
	}
	// DocumentHere says that a document that need not be read is on the disk.
	DocumentHere struct{ Document }
	// DocumentMissing says that a document is not on this disk.
	DocumentMissing struct{ Document }
	// DocumentUnreadable says that a document is here and not understood; where
	// Again is true, that it could not be read now.
	DocumentUnreadable struct {
		Document
		Problem string
		Again   bool
	}
	// DocumentFetched says that a document that was missing is on the disk.
	DocumentFetched struct{ Document }
	// FetchEnded answers Ready.Fetch: so many documents have come.
	FetchEnded struct{ Got int }

	// Synced says that an exchange with a peer has ended since the start, or that
	// there is no peer to ask.
	Synced struct{}
	// Members says who is alive, as the ring has it. For people and pacing only.
	Members struct{ Alive map[bundle.NodeID]bool }
	// Told answers Ready.Tell: the record as it was signed.
	Told struct{ Record view.Signed }
	// Addresses says where the agent gossips, and where the services are reached,
	// but for Native.
	Addresses struct {
		Addr     string
		Services map[string]view.ServiceAddr
	}

	// SoftwareStarts says that the software of Version is about to be started, or was
	// found running.
	SoftwareStarts struct{ Version bundle.Version }
	// SoftwareUp says that the software of Version is ready, SoftwareDown that it
	// is not, or has Ended by itself, and SoftwareStops that it is being stopped.
	SoftwareUp   struct{ Version bundle.Version }
	SoftwareDown struct {
		Version bundle.Version
		Ended   bool
		Reason  string
	}
	SoftwareStops struct{}
	// SoftwareFails says that the checks of software that was ready fail,
	// SoftwarePasses that they pass again.
	SoftwareFails struct {
		Version bundle.Version
		Reason  string
	}
	SoftwarePasses struct{ Version bundle.Version }
	// FactsSampled says what the software of Version tells of itself: all that Node.Facts
	// asks for, as it is known by now.
	FactsSampled struct {
		Version bundle.Version
		Facts   map[string]view.Fact
	}
	// LetIn says that callers may reach the software that is being admitted.
	LetIn struct{}
	// Called says what callers of the versions that are watched have done so far. It
	// comes now and then.
	Called struct{ By map[bundle.Version]Calls }

	// AgentKnown says which program this agent is. It answers Ready.Agent, too; a Problem says
	// what was in the way, if anything was: it is tried again in a while.
	AgentKnown struct {
		schedule.AgentKnown
		Problem string
	}

	// Leave is the operator's word: the agent leaves the ring.
	Leave struct{}
	// AgentTrial says that the agent is being replaced by another build of it, or is itself on
	// trial; Over, that this is so no more. Meanwhile the node begins nothing that could not be
	// taken back: the other build may be no good.
	AgentTrial struct{ Over bool }
	// Twin says that somebody has proven this node's key at another address.
	Twin struct{ Addr string }
	// Alarm raises an alarm of the driver's, by its cause; without Text the cause
	// has gone.
	Alarm struct{ Cause, Text string }
)

// Calls are those of callers of one version.
type Calls struct{ Begun, Open int64 }

func (Tick) event()               {}
func (ActionEnded) event()        {}
func (Trouble) event()            {}
func (Progress) event()           {}
func (CheckEnded) event()         {}
func (CopyMeasured) event()       {}
func (MetadataSeen) event()       {}
func (MetadataVerified) event()   {}
func (LookAgain) event()          {}
func (ManifestRead) event()       {}
func (OrderRead) event()          {}
func (MembersRead) event()        {}
func (DocumentHere) event()       {}
func (DocumentMissing) event()    {}
func (DocumentUnreadable) event() {}
func (DocumentFetched) event()    {}
func (FetchEnded) event()         {}
func (Synced) event()             {}
func (Members) event()            {}
func (Told) event()               {}
func (Addresses) event()          {}
func (SoftwareUp) event()         {}
func (SoftwareDown) event()       {}
func (SoftwareStops) event()      {}
func (SoftwareFails) event()      {}
func (SoftwarePasses) event()     {}
func (FactsSampled) event()       {}
func (LetIn) event()              {}
func (SoftwareStarts) event()     {}
func (Called) event()             {}
func (AgentKnown) event()         {}
func (Leave) event()              {}
func (AgentTrial) event()         {}
func (Twin) event()               {}
func (Alarm) event()              {}

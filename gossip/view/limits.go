package view

// Bounds of records and views. Open enforces the former on all that arrives,
// Sign on all that is made; Merge enforces the latter (promise P10).
const (
	// MaxRecordBytes bounds the JSON of a record. A usual one has 500 to 900 bytes.
	MaxRecordBytes = 16 << 10
	// MaxSeq bounds a record's number, so that there is always one above it.
	MaxSeq = 1 << 61
	// MaxNodes bounds the nodes of a view; records of further nodes are refused.
	MaxNodes = 20_000
	// MaxEquivocations bounds the evidence kept, one pair of records a node.
	MaxEquivocations = 64

	// MaxNameBytes bounds a node's name.
	MaxNameBytes = 128
	// MaxAddrBytes bounds an address.
	MaxAddrBytes = 256
	// MaxPhaseBytes bounds the word for a phase.
	MaxPhaseBytes = 32
	// MaxReasonBytes and MaxAlarmBytes bound texts for people; Sign cuts them.
	MaxReasonBytes = 2 << 10
	MaxAlarmBytes  = 512
	// MaxFactBytes bounds the words about one fact.
	MaxFactBytes = 256
	// MaxAlarms bounds the alarms of one node; Sign keeps the first.
	MaxAlarms = 16
	// MaxServices bounds the services of a node, MaxVersions the versioned
	// addresses of one of them.
	MaxServices = 32
	MaxVersions = 64
	// MaxLabels bounds the labels of a node, MaxLabelBytes a key or a value.
	MaxLabels     = 64
	MaxLabelBytes = 128
	// MaxProgramBytes bounds the beginning of the digest of an agent's program.
	MaxProgramBytes = 16
	// MaxTurns bounds how often a release is taken back and forward again.
	MaxTurns = 1_000
	// MaxAttempts bounds the attempts at one release that a node counts.
	MaxAttempts = 1_000_000

	// shorter divides the bounds of texts for people in a record that is too long.
	shorter = 8
	// maxReads bounds what kinds of metadata a record may say that its agent understands.
	maxReads = 1_000
	// maxProblems bounds how many problems one error reports.
	maxProblems = 8
)

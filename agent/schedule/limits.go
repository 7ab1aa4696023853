package schedule

const (
	// MaxOrderBytes bounds the JSON of an order. A place in a roster takes 67
	// bytes of it.
	MaxOrderBytes = 8 << 20
	// MaxRoster bounds the places in the roster of one class.
	MaxRoster = 50_000
	// MaxClasses bounds the classes of an order.
	MaxClasses = 64
	// MaxSerial bounds how often an order changes.
	MaxSerial = 1_000_000

	// maxProblems bounds how many problems one error reports.
	maxProblems = 8
	// maxNamed bounds how many nodes a reason names in its text; Reason.Nodes
	// has all of them.
	maxNamed = 5
)

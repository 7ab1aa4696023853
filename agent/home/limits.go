package home

const (
	// maxKeyFile bounds identity and secret files, in bytes.
	maxKeyFile = 16 << 10
	// maxMarkFile bounds what a start must know of the folder, in bytes.
	maxMarkFile = 64 << 10
	// maxRootFile bounds the first root, in bytes.
	maxRootFile = 1 << 20
	// RecordsPerBatch bounds the records or peers that one transaction writes: at most
	// 16 KiB each, so below what the store takes.
	RecordsPerBatch = 24
	// digestsPerBatch bounds the digests of one kind that one transaction writes.
	digestsPerBatch = 400
	// maxAudit bounds a file of the audit, in bytes and but for a line, keepAudit is how many
	// older ones are kept, and maxAuditText bounds each text of a line, in bytes.
	maxAudit     = 4 << 20
	keepAudit    = 4
	maxAuditText = 4 << 10
	// maxHistory bounds the phases that History tells, and the signed documents; maxSeen bounds
	// the phases that are kept of another node, maxSeenReason the text of each, in bytes, and
	// maxSeenBatch roughly what one transaction writes of them.
	maxHistory    = 1000
	maxSeen       = 30
	maxSeenReason = 300
	maxSeenBatch  = 256 << 10
	// spareDisk is kept free beside what is about to be written, in bytes.
	spareDisk = 64 << 20
)

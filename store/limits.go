package store

import "time"

// Bounds of what the store takes and of what it costs.
const (
	// MaxValue bounds a document and a journal entry's data, in bytes. Larger
	// things are artifacts or blobs (store/artifact).
	MaxValue = 384 << 10
	// MaxName bounds a bucket's name and a journal entry's kind, in bytes.
	MaxName = 64
	// MaxKey bounds a document's key, in bytes.
	MaxKey = 512
	// MaxBatch bounds the sum of what one Update writes, in bytes, and
	// MaxBatchItems the number of its writes.
	MaxBatch      = 448 << 10
	MaxBatchItems = 1000
	// DefaultKeep is how many journal entries are kept when Options.Keep is 0.
	DefaultKeep = 10_000
	// Reserve is what must stay free on the disk, in bytes: Badger writes
	// through memory maps of sparse files, and a full disk there is a SIGBUS.
	// It covers one flush, the next log and a compaction.
	Reserve = 32 << 20
	// openReserve must be free for the database to be opened, and ballastSize is what
	// is kept for that, in bytes.
	openReserve = 16 << 20
	ballastSize = 32 << 20

	maxQuarantined = 2
	// maxCrashedOpens is how often opening the database may end the process
	// before the database itself is held to be the cause.
	maxCrashedOpens = 3
	maxMarkFile     = 64 << 10
	maxLockFile     = 64
	// lockWait bounds the wait for the lock of an agent that has ended, and lockPause is the
	// time between two tries.
	lockWait  = 10 * time.Second
	lockPause = 20 * time.Millisecond

	// Badger's sizes. The write-ahead log, the table in memory and so the
	// largest transaction follow from memTableSize: Badger allows a
	// transaction 15 % of it (629,145 bytes), and values up to
	// valueThreshold stay out of the value log, which therefore stays empty.
	memTableSize   = 4 << 20
	valueThreshold = 512 << 10
	tableSize      = 1 << 20
	valueLogSize   = 1 << 20
)

package node

import (
	"time"

	"moult/store/bundle"
)

const (
	// maxAlarms bounds the alarms that are told, maxKept those that are known, by cause.
	maxAlarms = 16
	maxKept   = 256
	// documentsAtOnce bounds the documents that are fetched at one time.
	documentsAtOnce = 8
	// numbersAtOnce is how many record numbers are reserved by one durable write.
	numbersAtOnce = 1024
	// regained is by how much a record's number rises where the folder has lost what was signed last.
	regained = 1 << 20

	// steadyAfter is how long software must be up, and pass, after something was wrong
	// with it, to count as well again. Software that ends again and again has pauses
	// of at most half of it between its starts.
	steadyAfter = time.Minute

	// clockSlack is by how much a clock may be ahead of this one's, and nobody is told.
	clockSlack = 5 * time.Second
	// clockShown is for how long it counts that a clock was ahead once this one has come to what
	// that said: a node at rest says nothing else for months, whatever is set meanwhile.
	clockShown = 10 * time.Minute

	// progressPause is between two looks whether a rollout that does not get on could: they ask
	// for conditions.
	progressPause = time.Second

	// observedEvery is between two writes of how long the time has run until a release is
	// finalized by its own word: so much of it a crash may cost.
	observedEvery = bundle.Duration(time.Minute)

	// factsPause is how often the record says other facts at most, beside the first of each
	// software.
	factsPause = 10 * time.Second

	// keptReleases is of how many releases the artifacts are kept, whether or not any
	// node runs them.
	keptReleases = 4

	// maxAnswered bounds the versions whose callers a node answers, maxAddresses the
	// addresses for them over all its services: they stand in its record.
	maxAnswered  = 32
	maxAddresses = 256
	// maxSteps bounds the objects between a caller and the software, each way.
	maxSteps = 16

	holdTimeout  = 30 * time.Second // where no release says otherwise
	minPause     = time.Second      // between two rounds of fetching documents
	maxPause     = 30 * time.Second
	agentDigits  = 12               // of the digest of an agent, in its record
	retryLater   = 15 * time.Second // after a transform's "try later" or a full disk
	retryInstall = 30 * time.Second // after an installation that failed
)

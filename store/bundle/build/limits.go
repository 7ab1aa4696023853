package build

import (
	"time"

	"moult/store/bundle"
)

const (
	// maxSpecBytes bounds upgrade.hcl.
	maxSpecBytes = 128 << 10
	// maxShown bounds the problems that a SpecError prints, and maxShownLine
	// each of its lines.
	maxShown     = 20
	maxShownLine = 400
)

// Chunk sizes of an artifact. Smaller chunks would save a little more between
// two versions, and make the manifest and the number of requests bigger.
const (
	minChunkBytes    = 64 << 10
	normalChunkBytes = 256 << 10
	maxChunkBytes    = 1 << 20
)

// Bounds of times that are stricter than the manifest's: shorter ones are
// mistakes.
const (
	minHealthyDeadline  = bundle.Duration(100 * time.Millisecond)
	minTransformTimeout = bundle.Duration(time.Second)
	minObjectTime       = bundle.Duration(time.Millisecond)
)

// Defaults of the spec.
const (
	defaultInterval         = bundle.Duration(time.Second)
	defaultMinHealthyTime   = bundle.Duration(10 * time.Second)
	defaultHealthyDeadline  = bundle.Duration(5 * time.Minute)
	defaultAgentDeadline    = bundle.Duration(2 * time.Minute)
	defaultDrainTimeout     = bundle.Duration(15 * time.Second)
	defaultTransformTimeout = bundle.Duration(time.Hour)
	defaultRehearsalTime    = bundle.Duration(time.Hour)
	defaultHookTime         = bundle.Duration(time.Minute)
	defaultHoldTimeout      = bundle.Duration(30 * time.Second)
	defaultFactEvery        = bundle.Duration(10 * time.Second)
	defaultFactTimeout      = bundle.Duration(5 * time.Second)
	defaultMaxUnavailable   = "1"
	defaultFailureMax       = 1
)

package bundle

import "time"

// Bounds of a manifest. Validate enforces them when a release is built and
// when one arrives, so nothing that a peer sends can make an agent hold or
// compute more than they allow (P10).
const (
	// MaxManifestBytes bounds the canonical JSON of a manifest. The chunk
	// tables fill it: a chunk takes about 110 bytes.
	MaxManifestBytes = 16 << 20
	// MaxVersion is the highest system version. It keeps every version exact
	// in readers of JSON that know only floating point.
	MaxVersion Version = 1_000_000_000
	// MaxClasses bounds the classes that one release changes.
	MaxClasses = 64
	// MaxServices bounds the services of one class.
	MaxServices = 32
	// MaxArtifacts bounds the platforms of one class.
	MaxArtifacts = 32
	// MaxChunks bounds the chunks of one artifact.
	MaxChunks = 128 << 10
	// MaxChunkBytes bounds one chunk, which agents hold in memory whole.
	MaxChunkBytes = 4 << 20
	// MaxArtifactBytes bounds one artifact's tar.
	MaxArtifactBytes = 32 << 30
	// MaxRulesBytes bounds a rules file of a simulation.
	MaxRulesBytes = 1 << 20
	// MaxWasmBytes bounds a wasm module of a simulation.
	MaxWasmBytes = 16 << 20
	// MaxNameBytes bounds the name of a class or a service.
	MaxNameBytes = 32
	// MaxArgs and MaxArgBytes bound an argv.
	MaxArgs     = 256
	MaxArgBytes = 4 << 10
	// MaxReasonBytes bounds the author's words in a refusal.
	MaxReasonBytes = 1000
	// MaxHTTPPathBytes bounds the path of a health check.
	MaxHTTPPathBytes = 1 << 10
	// MaxObjectMemory bounds the memory that a simulation object may ask for.
	MaxObjectMemory = 1 << 40
	// MaxTransformBytes bounds what a transform may ask for in memory or disk.
	MaxTransformBytes = 1 << 50
	// MaxCanary and MaxFailures bound what a schedule counts in nodes.
	MaxCanary   = 100_000
	MaxFailures = 100_000
	// MaxWindows bounds the windows of one class, MaxZoneBytes the name of a time zone.
	MaxWindows   = 16
	MaxZoneBytes = 64
	// MaxFacts bounds the facts of one class, MaxExpressionBytes the text of a condition.
	MaxFacts           = 8
	MaxExpressionBytes = 2 << 10
	// MaxWaves bounds the waves of one class, MaxWaveLabels the labels that one names, and
	// MaxLabelBytes the name or the value of a label.
	MaxWaves      = 32
	MaxWaveLabels = 8
	MaxLabelBytes = 128
	// MaxRate bounds how many nodes go in an hour.
	MaxRate = 1_000_000
	// MaxWithdrawn bounds the withdrawals that stand in an order.
	MaxWithdrawn = 1_024
	// maxProblems bounds how many problems one call of Validate reports.
	maxProblems = 20
)

// Bounds of the times in a manifest.
const (
	MinHealthInterval = Duration(10 * time.Millisecond)
	MaxHealthInterval = Duration(time.Hour)
	MaxHealthTime     = Duration(24 * time.Hour)
	MinAgentDeadline  = Duration(5 * time.Second)
	MaxAgentDeadline  = Duration(time.Hour)
	MaxDrainTimeout   = Duration(24 * time.Hour)
	MaxTransformTime  = Duration(7 * 24 * time.Hour)
	MinRehearsalTime  = Duration(time.Second)
	MinHookTime       = Duration(time.Second)
	MaxHookTime       = Duration(24 * time.Hour)
	MaxSoak           = Duration(30 * 24 * time.Hour)
	MaxHoldTimeout    = Duration(time.Hour)
	MinProgress       = Duration(time.Second)
	MaxProgress       = Duration(30 * 24 * time.Hour)
	MinFinalizeAfter  = Duration(time.Second)
	MaxFinalizeAfter  = Duration(365 * 24 * time.Hour)
	MinWindow         = Duration(time.Minute)
	MaxWindow         = Duration(7 * 24 * time.Hour)
	MinRetireAfter    = Duration(time.Second)
	MaxRetireAfter    = Duration(366 * 24 * time.Hour)
	MaxObjectTime     = Duration(time.Minute)
	MinFactEvery      = Duration(100 * time.Millisecond)
	MaxFactEvery      = Duration(time.Hour)
	MaxFactTime       = Duration(time.Minute)
)

// DefaultRetireAfter is what a manifest means that gives no RetireAfter. It
// never changes: releases are signed that mean it.
const DefaultRetireAfter = Duration(24 * time.Hour)

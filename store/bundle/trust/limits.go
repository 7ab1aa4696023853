package trust

import (
	"time"

	"moult/store/bundle"
)

// Bounds of what is read from peers, bundles and trust folders (P10). A set at
// every bound at once stays below MaxSetBytes.
const (
	// MaxReleases bounds the releases that a cluster ever has, and so the
	// orders: one a day for 27 years. Nothing is ever taken off the list, for
	// a release number must never come back with other content.
	MaxReleases = 10_000
	// ExpirySoon is how long before they expire that is said of metadata.
	ExpirySoon = 30 * 24 * time.Hour
	// MaxRoots bounds the chain of roots, which every peer keeps whole.
	MaxRoots = 64
	// MaxKeys bounds the keys and the signatures of one file.
	MaxKeys = 16
	// MaxRootBytes bounds one root file.
	MaxRootBytes = 32 << 10
	// MaxPinBytes bounds a timestamp or snapshot file: a handful of hashes.
	MaxPinBytes = 16 << 10
	// MaxTargetsBytes bounds a targets or operator file: an entry of
	// MaxReleases takes at most 150 bytes.
	MaxTargetsBytes = 2 << 20
	// MaxSetBytes bounds an encoded Set: base64 makes 4 bytes of 3.
	MaxSetBytes = (MaxRoots*MaxRootBytes+2*MaxPinBytes+2*MaxTargetsBytes)/3*4 + 4<<10
	// MaxOrderBytes bounds a rollout order: rosters of 100,000 nodes together,
	// with retries.
	MaxOrderBytes = 8 << 20
	// MaxMembersBytes bounds the document of who belongs to the cluster.
	MaxMembersBytes = 8 << 20
	// MaxMetadataVersion bounds the version of a metadata file.
	MaxMetadataVersion = 1 << 40
	// numbersPerRoot bounds the version of a metadata file for each root that there has
	// been: the next root opens as many above, so that whoever has a key uses up none of
	// those that follow its replacement.
	numbersPerRoot = MaxMetadataVersion / MaxRoots
	// maxJump bounds how far version numbers by keys that were replaced may lie above
	// the others, unless an operator confirms it: nobody has signed so often by then.
	maxJump = 1 << 16
	// maxDepth bounds the nesting of JSON in a metadata file; TUF needs 6.
	maxDepth = 16
	// maxInteger is the greatest integer that every reader of JSON has exactly.
	maxInteger = 1<<53 - 1
	// maxKeyFileBytes bounds a key file of a trust folder.
	maxKeyFileBytes = 16 << 10
	// maxReleaseBytes bounds a manifest.
	maxReleaseBytes = bundle.MaxManifestBytes
)

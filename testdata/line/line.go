// Package line holds what whoever upgrades a second sample system writes about
// it: the release specs. The system speaks a protocol of its own over TCP, so its
// simulation objects are programs (line2.Past and line2.Future).
package line

import "embed"

// Files has upgrade-N.hcl for each release N.
//
//go:embed upgrade-*.hcl
var Files embed.FS

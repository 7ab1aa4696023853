package grpckv

import "embed"

// Files has rules/past-3.hcl and rules/future-3.hcl, what the author of release 3
// says about calls between versions 2 and 3.
//
//go:embed rules/*.hcl
var Files embed.FS

// Package kv holds what whoever upgrades the sample system writes about it: the
// release specs, the rules by which its versions answer each other's callers,
// and agent configs to try them with. The system itself is in kv1, kv2 and kv3,
// which know nothing of this.
package kv

import "embed"

// Files has upgrade-N.hcl, rules/past-N.hcl and rules/future-N.hcl for each
// release N, and tour/, as they are in this folder.
//
//go:embed upgrade-*.hcl rules/*.hcl tour/*.hcl
var Files embed.FS

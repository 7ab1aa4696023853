//go:build !linux

package transforms

// limitedUser is what only Linux has.
func limitedUser() int { return 2 }

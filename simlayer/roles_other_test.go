//go:build !linux

package simlayer

// playRole reports whether the test binary was run as something else.
func playRole() bool { return false }

//go:build !linux

package simlayer

// playRole reports whether the test binary was run as something else.
func playRole() bool { return false }

// taken: there are no lanes here.
func (*lanes) taken() int { return 0 }

//go:build !linux

package host

// waiting is not known on this system.
func waiting(*socket) (int, bool) { return 0, false }

// listensAt is not known on this system.
func listensAt(mark, addr string, users ...int) bool { return false }

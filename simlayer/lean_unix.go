//go:build unix

package simlayer

import "syscall"

// alive reports whether the other end has neither closed its connection nor said
// something unasked. Nobody may read meanwhile.
func (r *reader) alive() bool {
	var one [1]byte
	open := false
	err := r.raw.Control(func(fd uintptr) {
		_, err := syscall.Read(int(fd), one[:])
		open = err == syscall.EAGAIN
	})
	return err == nil && open
}

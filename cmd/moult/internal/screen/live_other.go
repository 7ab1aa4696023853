//go:build !unix

package screen

// suspends does nothing: no shell stops a process here.
func (*Live) suspends() {}

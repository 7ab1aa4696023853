//go:build unix

package wasm

import (
	"io/fs"
	"syscall"
)

// severalNames reports whether a file has other names, which may be anywhere.
func severalNames(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink > 1
}

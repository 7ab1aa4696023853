//go:build !unix

package control

import "io/fs"

func sameOwner(fs.FileInfo, fs.FileInfo) bool { return false }

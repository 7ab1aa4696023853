//go:build !unix

package wasm

import "io/fs"

func severalNames(fs.FileInfo) bool { return false }

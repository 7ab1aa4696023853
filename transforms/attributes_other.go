//go:build !linux && !darwin

package transforms

import (
	"io/fs"
	"os"
)

func copyAttributes(_, _ *os.File) error { return nil }

func attributes(*os.File) ([]string, error) { return nil, nil }

func privileged(string) bool { return false }

func inodeOf(fs.FileInfo) (i inode, ok bool) { return i, false }

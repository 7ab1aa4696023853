package archive

import "syscall"

// hasCapabilities reports whether a file is run with rights of its own, by setcap.
func hasCapabilities(path string) bool {
	n, err := syscall.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}

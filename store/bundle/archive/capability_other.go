//go:build !linux

package archive

func hasCapabilities(string) bool { return false }

//go:build unix && !linux

package account

func isMainThread() bool { return false }

// lacks reports nothing: root is root here.
func lacks() error { return nil }

// Drop has nothing to do: there are no capabilities here, and set-user-ID programs
// cannot be kept from giving rights.
func (a *Account) Drop() error { return nil }

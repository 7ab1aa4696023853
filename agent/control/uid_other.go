//go:build !linux && !darwin

package control

import "net"

// peerUID is not known here.
func peerUID(*net.UnixConn) (uid int, ok bool) { return 0, false }

// sandboxed is false: only Linux has sandboxes.
func sandboxed(*net.UnixConn) bool { return false }

package control

import (
	"net"
	"os"

	"golang.org/x/sys/unix"

	"moult/agent/account/sandbox"
)

// peerUID is the user of the process that made a connection.
func peerUID(c *net.UnixConn) (uid int, ok bool) {
	cred := peer(c)
	if cred == nil {
		return 0, false
	}
	return int(cred.Uid), true
}

// sandboxed reports whether the process that made a connection is one of the node's that
// work in a sandbox. All of them are seen from here, whatever namespaces they have made.
func sandboxed(c *net.UnixConn) bool {
	cred := peer(c)
	return cred != nil && int(cred.Uid) == os.Geteuid() && cred.Pid > 0 && sandbox.Inside(int(cred.Pid))
}

// peer is the process that made a connection, as it was then; nil where that is not known.
func peer(c *net.UnixConn) (cred *unix.Ucred) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return nil
	}
	return cred
}

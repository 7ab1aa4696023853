package control

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID is the user of the process that made a connection.
func peerUID(c *net.UnixConn) (uid int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if ok = err == nil; ok {
			uid = int(cred.Uid)
		}
	})
	return uid, ok && err == nil
}

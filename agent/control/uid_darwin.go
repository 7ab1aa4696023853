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
		cred, err := unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if ok = err == nil; ok {
			uid = int(cred.Uid)
		}
	})
	return uid, ok && err == nil
}

// sandboxed is false: only Linux has sandboxes.
func sandboxed(*net.UnixConn) bool { return false }

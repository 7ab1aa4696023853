//go:build unix

package fdstore

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// own makes an inherited descriptor this process's alone.
func own(fd int) error {
	if fd < 3 {
		return unix.EBADF // it is not ours to take
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	return os.NewSyscallError("fcntl", err)
}

// inheritable has a descriptor survive an execve.
func inheritable(f *os.File) (fd int, err error) {
	cerr := control(f, func(n int) {
		fd = n
		_, err = unix.FcntlInt(uintptr(n), unix.F_SETFD, 0)
	})
	if err == nil {
		err = cerr
	}
	return fd, os.NewSyscallError("fcntl", err)
}

// send sends a datagram, and f with it unless that is nil.
func send(to, text string, f *os.File) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: to, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	var oob []byte
	if f != nil {
		if err := control(f, func(fd int) { oob = unix.UnixRights(fd) }); err != nil {
			return err
		}
	}
	// Not WriteMsgUnix, which refuses a socket that is connected.
	c, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if werr := c.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte(text), oob, nil, 0)
		return err != unix.EAGAIN
	}); werr != nil {
		return werr
	}
	return os.NewSyscallError("sendmsg", err)
}

// control is used in the place of Fd, which makes the socket a blocking one for all who have it.
func control(f *os.File, use func(fd int)) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { use(int(fd)) })
}

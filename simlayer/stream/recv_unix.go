//go:build unix

package stream

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Peek reads what has come at a socket, and leaves it there; Take reads a datagram. Both
// are for the function of a syscall.RawConn, and fail with syscall.EAGAIN where nothing
// has come.
func Peek(fd uintptr, buf []byte) (n int, err error) { return receive(fd, buf, unix.MSG_PEEK) }

// Take: see Peek.
func Take(fd uintptr, buf []byte) (n int, err error) { return receive(fd, buf, unix.MSG_DONTWAIT) }

func receive(fd uintptr, buf []byte, flags int) (n int, err error) {
	for {
		n, _, err = unix.Recvfrom(int(fd), buf, flags)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

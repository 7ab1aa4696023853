//go:build darwin || freebsd

package durable

import "golang.org/x/sys/unix"

const readOnlyFlag = unix.MNT_RDONLY

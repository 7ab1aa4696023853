//go:build linux || darwin

package transforms

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyAttributes gives out the extended attributes of in: access lists, capabilities,
// and what else programs keep there.
func copyAttributes(out, in *os.File) error {
	names, err := attributes(in)
	if err != nil || len(names) == 0 {
		return err
	}
	value := make([]byte, maxAttribute)
	for _, name := range names {
		n, err := onFile(in, func(fd int) (int, error) { return unix.Fgetxattr(fd, name, value) })
		if err == nil {
			_, err = onFile(out, func(fd int) (int, error) { return 0, unix.Fsetxattr(fd, name, value[:n], 0) })
		}
		if err != nil {
			return fmt.Errorf("%s: its extended attribute %s cannot be kept: %w", in.Name(), name, err)
		}
	}
	return nil
}

// attributes lists the extended attributes that a copy must have. Those that the
// system gives to each file by rules of its own are none of them.
func attributes(f *os.File) ([]string, error) {
	list := make([]byte, maxAttribute)
	n, err := onFile(f, func(fd int) (int, error) { return unix.Flistxattr(fd, list) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: list its extended attributes: %w", f.Name(), err)
	}
	var names []string
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		switch name {
		case "", "security.selinux", "security.ima", "security.evm", "com.apple.provenance":
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

func onFile(f *os.File, do func(fd int) (int, error)) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if ctlErr := raw.Control(func(fd uintptr) { n, err = do(int(fd)) }); ctlErr != nil {
		return 0, ctlErr
	}
	return n, err
}

// privileged reports whether an extended attribute can be set by root only.
func privileged(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.")
}

// inode tells a file of several names from all others; ok is false for one of one name.
func inodeOf(info fs.FileInfo) (i inode, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || st.Nlink < 2 {
		return i, false
	}
	return inode{uint64(st.Dev), st.Ino}, true
}

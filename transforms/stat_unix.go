//go:build unix

package transforms

import (
	"encoding/binary"
	"os"
	"syscall"
)

// owner returns a file's user and group.
func owner(info os.FileInfo) (uid, gid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return int(st.Uid), int(st.Gid), true
}

// onDisk returns the bytes that a file takes there: less than its length if it has
// holes.
func onDisk(info os.FileInfo) int64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Size()
	}
	return int64(st.Blocks) * 512
}

// appendIdentity appends what tells a file from another of its name, and its content
// from any other that it had.
func appendIdentity(b []byte, info os.FileInfo) []byte {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return b
	}
	b = binary.BigEndian.AppendUint64(b, uint64(st.Ino))
	return binary.BigEndian.AppendUint64(b, uint64(changeTime(st)))
}

// namesOf returns how many names a file has (hard links), and which it is; 0 of a folder.
func namesOf(info os.FileInfo) (i inode, n uint64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.IsDir() {
		return i, 0
	}
	return inode{uint64(st.Dev), st.Ino}, uint64(st.Nlink)
}

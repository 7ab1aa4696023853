//go:build !linux

package transforms

import (
	"io/fs"
	"os"

	"moult/agent/account"
)

// giveFile gives a file, folder or link to an account if check lets it. Only Linux can
// give the very file that was checked; here whoever can write to the folder meanwhile
// could exchange it, and [Slots.Own] is for folders on which nothing runs.
func giveFile(root *os.Root, name string, who *account.Account, check func(string, fs.FileInfo) error) error {
	info, err := root.Lstat(name)
	if err == nil {
		err = check(name, info)
	}
	if err != nil {
		return err
	}
	return root.Lchown(name, who.UID, who.GID)
}

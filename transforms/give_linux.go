package transforms

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"moult/agent/account"
)

// giveFile gives a file, folder or link to an account if check lets it: the very one that
// was checked, whatever has its name by then.
func giveFile(root *os.Root, name string, who *account.Account, check func(string, fs.FileInfo) error) error {
	f, err := root.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = check(name, info)
	}
	if err == nil {
		_, err = onFile(f, func(fd int) (int, error) {
			return 0, unix.Fchownat(fd, "", who.UID, who.GID, unix.AT_EMPTY_PATH)
		})
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return errors.Join(err, f.Close())
}

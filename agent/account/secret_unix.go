//go:build unix

package account

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// HiddenFrom returns an error where the account could read a secret of the agent's, by the
// modes of the file and of the folders above it. "" and what is not there is hidden.
func (a *Account) HiddenFrom(path string) error {
	if !a.Others() || path == "" {
		return nil
	}
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	const read, pass = 4, 1
	for at, bit := real, fs.FileMode(read); err == nil; at, bit = filepath.Dir(at), pass {
		var info fs.FileInfo
		if info, err = os.Stat(at); err != nil {
			break
		}
		if !a.may(info, bit) {
			return nil
		}
		if bit == pass && at == filepath.Dir(at) {
			return fmt.Errorf("user = %q: that user may read the secret %s, which is to be kept from it: %s", a.Name, path, closing(real))
		}
	}
	return err
}

// may reports whether the account has a bit of a mode, as the kernel chooses among the three.
func (a *Account) may(info fs.FileInfo, bit fs.FileMode) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	switch gid := int(st.Gid); {
	case int(st.Uid) == a.UID:
		bit <<= 6
	case gid == a.GID || slices.Contains(a.Groups, gid):
		bit <<= 3
	}
	return info.Mode()&bit != 0
}

// OpenTo says who else may read or write one of the agent's secrets, and what mends it; ""
// is nobody. Root's group, and those of this process, are how a file of another owner is
// given to an agent: they are nobody else, unless the account is in them.
func (a *Account) OpenTo(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "" // who needs it says so
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	var who []string
	if gid := int(st.Gid); info.Mode()&0o060 != 0 && !a.ours(gid) {
		who = append(who, fmt.Sprintf("group %d", gid))
	}
	if info.Mode()&0o006 != 0 {
		who = append(who, "all users of this machine")
	}
	if len(who) == 0 {
		return ""
	}
	return fmt.Sprintf("the secret %s is open to %s (mode %04o): %s, and replace the secret if others use this machine", path, strings.Join(who, " and "), info.Mode().Perm(), closing(path))
}

func (a *Account) ours(gid int) bool {
	if a.Others() && (gid == a.GID || slices.Contains(a.Groups, gid)) {
		return false
	}
	groups, err := os.Getgroups()
	return gid == 0 || gid == os.Getegid() || err == nil && slices.Contains(groups, gid)
}

// closing is the command after which only the agent's user can read a file: its owner may be
// another, who would be the only one that is left.
func closing(path string) string {
	command := "chmod 600 " + path
	if info, err := os.Stat(path); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			command = fmt.Sprintf("chown %d %s && %s", os.Geteuid(), path, command)
		}
	}
	return fmt.Sprintf("`%s`, or the like where it is mounted from", command)
}

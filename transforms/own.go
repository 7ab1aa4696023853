package transforms

import (
	"fmt"
	"io/fs"
	"os"

	"moult/agent/account"
	"moult/store/bundle"
)

// own makes an account the owner of a tree, of the folder itself last: as long as that
// is another's, something in it may be.
func own(dir string, who *account.Account) error {
	if !who.Others() {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	err = walk(root, func(name string, info fs.FileInfo) error {
		if name == "." {
			return nil
		}
		return root.Lchown(name, who.UID, who.GID)
	})
	if err == nil {
		err = who.Give(dir)
	}
	if err != nil {
		return fmt.Errorf("give %s to user %s: %w", dir, who.Name, err)
	}
	return nil
}

// Own makes the account of these slots the owner of the slot of v, if it is not: the
// slot may be from before there was one. No software may run on it.
func (s *Slots) Own(v bundle.Version) error {
	info, err := os.Lstat(s.Path(v))
	if err != nil {
		return err
	}
	if uid, gid, ok := owner(info); ok && s.who.Others() && (uid != s.who.UID || gid != s.who.GID) {
		return own(s.Path(v), s.who)
	}
	return nil
}

// Hand gives a folder of Future or Past, with all that is in it, to the account, for an
// object that is a program; it may be from before there was an account. For all others,
// which run in moult's own process, it takes the folder back from the account, whose
// transform may have made it: what others can put there moult would follow.
func (o *Objects) Hand(dir string, program bool) error {
	if !o.who.Others() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	uid, gid, ok := owner(info)
	if !ok || !info.IsDir() {
		return fmt.Errorf("%s is no folder whose owner is known: remove it", dir)
	}
	switch {
	case program && (uid != o.who.UID || gid != o.who.GID):
		return own(dir, o.who)
	case program:
		return nil
	case uid != os.Geteuid():
		err = os.Lchown(dir, os.Geteuid(), os.Getegid())
	}
	if err == nil && (uid != os.Geteuid() || info.Mode().Perm() != 0o700) {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("take %s back from user %s: %w", dir, o.who.Name, err)
	}
	return nil
}

// OwnFuture makes the account the owner of all that the future object of release v has
// kept: objects that run in moult's own process are the agent's. None may run on it.
func (o *Objects) OwnFuture(v bundle.Version) error {
	if o.FutureState(v) == "" {
		return nil
	}
	return own(o.path(v, FutureObject), o.who)
}

// Enter lets the account, if it is another user, through a folder, which it still cannot
// list.
func Enter(dir string, who *account.Account) error {
	if !who.Others() {
		return nil
	}
	const through = 0o011
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&through == through { // the disk may be read-only
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|through)
}

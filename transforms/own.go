package transforms

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"moult/agent/account"
	"moult/store/bundle"
)

// own makes an account the owner of a tree, of the folder itself last: as long as that
// is another's, something in it may be. A file that has a name outside the tree as well is
// another's, perhaps, who did not put it here: it is refused, and nothing given away.
func own(dir string, who *account.Account) error {
	if !who.Others() {
		return nil
	}
	if err := giveTree(dir, who); err != nil {
		return fmt.Errorf("give %s to user %s: %w", dir, who.Name, err)
	}
	return nil
}

func giveTree(dir string, who *account.Account) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	g := giver{root: root, who: who, names: map[inode]names{}}
	if err := walk(root, g.count); err != nil {
		return err
	}
	if err := g.outside(); err != nil { // before anything is given
		return err
	}
	if err := walk(root, g.give); err != nil {
		return err
	}
	return who.Give(dir) // its own folder is the agent's
}

// giver gives what is in a tree to an account.
type giver struct {
	root  *os.Root
	who   *account.Account
	names map[inode]names // of files of several
}

// names are those that a file has in a tree: the last that was seen, how many they are, and
// how many it has at all.
type names struct {
	last      string
	here, all uint64
}

func (g *giver) count(name string, info fs.FileInfo) error {
	if i, n := namesOf(info); n > 1 {
		g.names[i] = names{name, g.names[i].here + 1, n}
	}
	return nil
}

// outside returns an error where a file has a name outside the tree. One that has all its
// names in it is the tree's, whoever owns it.
func (g *giver) outside() error {
	var found names
	for _, n := range g.names {
		if n.here < n.all && (found.all == 0 || n.last < found.last) {
			found = n
		}
	}
	if found.all == 0 {
		return nil
	}
	return g.shared(found)
}

func (g *giver) shared(n names) error {
	return fmt.Errorf("%s has %d names, and %d in this folder: user %s would get what the others name; put a copy in its place (`cp -p`, then `mv`)", filepath.Join(g.root.Name(), n.last), n.all, n.here, g.who.Name)
}

func (g *giver) give(name string, _ fs.FileInfo) error {
	if name == "." {
		return nil
	}
	return giveFile(g.root, name, g.who, g.check)
}

// check judges the very file that is given away.
func (g *giver) check(name string, info fs.FileInfo) error {
	i, n := namesOf(info)
	if here := g.names[i].here; n > max(1, here) {
		return g.shared(names{name, here, n})
	}
	return nil
}

// Owners lists the users, besides this process's own, whose the slots and the states of
// objects are. Only who starts a node's programs gives them to anybody, so these are the
// users as whom its programs may have run.
func (s *Slots) Owners() ([]int, error) {
	found := map[int]bool{}
	all, err := foldersIn(s.dir)
	objects, err2 := foldersIn(s.objects.dir)
	if err = errors.Join(err, err2); err != nil {
		return nil, err
	}
	for dir := range objects {
		states, err := foldersIn(dir)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, states)
	}
	for _, info := range all {
		if uid, _, ok := owner(info); ok && uid != os.Geteuid() {
			found[uid] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// foldersIn returns the folders that a folder has at its top; what is not there has none.
func foldersIn(dir string) (map[string]fs.FileInfo, error) {
	found := map[string]fs.FileInfo{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.IsDir() {
			found[filepath.Join(dir, e.Name())] = info
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return found, err
}

// Own makes the account of these slots the owner of the slot of v, if it is not: the
// slot may be from before there was one. No software may run on it.
func (s *Slots) Own(v bundle.Version) error {
	anothers, err := s.anothers(v)
	if err == nil && anothers {
		err = own(s.Path(v), s.who)
	}
	return err
}

// Ownable returns what Own would fail at, while software runs on the slot: names that come
// and go meanwhile may be among it. What is not there is no trouble.
func (s *Slots) Ownable(v bundle.Version) error {
	anothers, err := s.anothers(v)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !anothers {
		return err
	}
	root, err := os.OpenRoot(s.Path(v))
	if err != nil {
		return err
	}
	defer root.Close()
	g := giver{root: root, who: s.who, names: map[inode]names{}}
	if err = walkLive(root, g.count); err == nil {
		err = g.outside()
	}
	if err != nil {
		return fmt.Errorf("give %s to user %s: %w", root.Name(), s.who.Name, err)
	}
	return nil
}

// anothers reports whether the slot of v is to be given to the account.
func (s *Slots) anothers(v bundle.Version) (bool, error) {
	info, err := os.Lstat(s.Path(v))
	if err != nil {
		return false, err
	}
	uid, gid, ok := owner(info)
	return ok && s.who.Others() && (uid != s.who.UID || gid != s.who.GID), nil
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

// OwnPast is OwnFuture for the past object, and OwnComplement for what was kept when the
// release was taken back.
func (o *Objects) OwnPast(v bundle.Version) error {
	if o.PastState(v) == "" {
		return nil
	}
	return own(o.path(v, PastObject), o.who)
}

// OwnComplement is told with OwnPast.
func (o *Objects) OwnComplement(v bundle.Version) error {
	if o.Complement(v) == "" {
		return nil
	}
	return own(o.path(v, complement), o.who)
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

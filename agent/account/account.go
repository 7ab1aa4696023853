// Package account is the user under whom a node's programs run: its software, their
// checks, transforms, and the programs of simulation objects. All of them come from a
// release, and the agent that starts them has the node's keys.
//
// A nil *Account is the agent's own user, with all that the agent may do. Programs of an
// Account have no more rights than its user has, and cannot gain any: they have no
// capabilities, and set-user-ID programs and file capabilities give them none
// (no_new_privs, on Linux).
package account

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
)

// Account is a user, resolved.
type Account struct {
	Name   string `json:"name"` // as the configuration has it
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Groups []int  `json:"groups,omitempty"` // supplementary
	Home   string `json:"home"`
}

// maxID bounds users and groups: the highest number means none.
const maxID = 1<<32 - 2

// Resolve finds a user by name or number, a group, and supplementary groups. An empty
// group is the user's own. All that the agent could not obey is an error.
func Resolve(name, group string, supplementary []string) (*Account, error) {
	a := &Account{Name: name, UID: -1, GID: -1, Home: "/"}
	u, err := user.Lookup(name)
	if n, numeric := number(name); err != nil && numeric {
		a.UID = n
		u, err = user.LookupId(name)
	}
	switch {
	case err == nil:
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user = %q: %w", name, err)
		}
		a.UID, a.GID, a.Name, a.Home = uid, gid, u.Username, u.HomeDir
	case a.UID < 0:
		return nil, fmt.Errorf("user = %q: this machine has no such user: make it (`useradd --system %s`), or name another", name, name)
	case group == "":
		return nil, fmt.Errorf("user = %q: this machine has no such user, so its group is not known: name a group, too", name)
	}
	if group != "" {
		if a.GID, err = groupID(group); err != nil {
			return nil, fmt.Errorf("group = %q: %w", group, err)
		}
	}
	for _, g := range supplementary {
		id, err := groupID(g)
		if err != nil {
			return nil, fmt.Errorf("supplementary_groups: %q: %w", g, err)
		}
		a.Groups = append(a.Groups, id)
	}
	return a, a.obeyed()
}

// obeyed reports what an agent of this process's user cannot obey.
func (a *Account) obeyed() error {
	if a.UID == 0 {
		return errors.New("user: root is who the node's programs are to be kept from: name another user")
	}
	if os.Geteuid() == 0 {
		return errors.Join(a.ofRoot(), lacks())
	}
	if a.UID != os.Geteuid() {
		return fmt.Errorf("user = %q: the agent's own user is %d, and only root can start programs as another: run the agent as root, or leave user out", a.Name, os.Geteuid())
	}
	if a.GID != os.Getegid() || len(a.Groups) > 0 {
		return errors.New("group, supplementary_groups: only root can start programs with other groups: run the agent as root, or leave them out")
	}
	return nil
}

// ofRoot reports a group of root's: what root's group may read is what the node's
// programs are to be kept from.
func (a *Account) ofRoot() error {
	if a.GID == 0 {
		return fmt.Errorf("user = %q, group: its group is root's, who the node's programs are to be kept from: name another group", a.Name)
	}
	if slices.Contains(a.Groups, 0) {
		return errors.New("supplementary_groups: root's is among them, who the node's programs are to be kept from: leave it out")
	}
	return nil
}

func groupID(name string) (int, error) {
	if g, err := user.LookupGroup(name); err == nil {
		return strconv.Atoi(g.Gid)
	}
	if n, ok := number(name); ok {
		return n, nil
	}
	return 0, errors.New("this machine has no such group: make it, or name another")
}

func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n <= maxID
}

// Users are those whose processes may be an account's: the agent's own, since it may
// have started some before it was told of the account, and the account's.
func (a *Account) Users() []int {
	if a == nil || a.UID == os.Getuid() {
		return []int{os.Getuid()}
	}
	return []int{os.Getuid(), a.UID}
}

// Environment puts into env what names the user.
func (a *Account) Environment(env map[string]string) {
	if a != nil {
		env["HOME"], env["USER"], env["LOGNAME"] = a.Home, a.Name, a.Name
	}
}

// Others reports whether files must be given to the account: it is not the agent's user.
func (a *Account) Others() bool { return a != nil && a.UID != os.Geteuid() }

// Give makes the account the owner of one file or folder, not of what a link names.
func (a *Account) Give(path string) error {
	if !a.Others() {
		return nil
	}
	return os.Lchown(path, a.UID, a.GID)
}

// Equal reports whether two are the same.
func (a *Account) Equal(b *Account) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.UID == b.UID && a.GID == b.GID && slices.Equal(a.Groups, b.Groups)
}

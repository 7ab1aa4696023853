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

// KeptFrom returns an error where the account could change or replace a file or folder,
// or what a folder has at its top, because of whose it is or who may write to it; what is
// passed are names at the top of which the account may own what is below. "" and what is
// not there is kept.
func (a *Account) KeptFrom(path string, passed ...string) error {
	if !a.Others() || path == "" {
		return nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	way, real, err := hops(path)
	if err != nil {
		return err
	}
	for _, at := range way {
		if err := a.keptFrom(at, "", at != path && at != real); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil // a file, or nothing yet; whoever needs it says the rest
	}
	for _, e := range entries {
		deep := "-R "
		if slices.Contains(passed, e.Name()) {
			deep = ""
		}
		if err := a.keptFrom(filepath.Join(path, e.Name()), deep, false); err != nil {
			return err
		}
	}
	return nil
}

// maxLinks is how many links the kernel follows on the way to one file.
const maxLinks = 40

// hops lists what is passed on the way to an absolute path: folders, links, what these lead
// to, and what lies at its end, which is real. What is not there ends nothing.
func hops(path string) (way []string, real string, err error) {
	real = string(filepath.Separator)
	way = []string{real}
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		at := filepath.Join(real, name) // also of "..": real has no links
		way = append(way, at)
		target, err := os.Readlink(at)
		if err != nil { // no link
			real = at
			continue
		}
		if links++; links > maxLinks {
			return nil, "", fmt.Errorf("%s: more than %d links on the way to it", path, maxLinks)
		}
		if filepath.IsAbs(target) {
			real = string(filepath.Separator)
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return way, real, nil
}

// keptFrom judges one file or folder, or a link. In a sticky folder that is only passed
// nobody gets at what is another's; in the agent's own anybody could put something.
func (a *Account) keptFrom(path, deep string, passed bool) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	link := info.Mode()&fs.ModeSymlink != 0
	if !ok || !info.IsDir() && !info.Mode().IsRegular() && !link { // a socket may be that user's
		return nil
	}
	if link {
		deep = "-h " // not of what it leads to
	}
	var open []string // in whose name the account may write
	if info.Mode()&0o002 != 0 {
		open = append(open, "o-w")
	}
	if gid := int(st.Gid); info.Mode()&0o020 != 0 && (gid == a.GID || slices.Contains(a.Groups, gid)) {
		open = append(open, "g-w")
	}
	switch {
	case int(st.Uid) == a.UID:
		return fmt.Errorf("user = %q: %s is that user's, from whom the agent's own files are to be kept: look whether it is as you left it, then `chown %sroot %s`", a.Name, path, deep, path)
	case len(open) > 0 && !link && !(passed && info.Mode()&fs.ModeSticky != 0): // all links have all bits
		return fmt.Errorf("user = %q: that user may write to %s (%v), where the agent's own files are to be kept from it: `chmod %s %s`", a.Name, path, info.Mode(), strings.Join(open, ","), path)
	}
	return nil
}

package transforms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// A copier copies a tree: files, folders, links inside it, with permissions,
// owners where it may, extended attributes and modification times. A file of several
// names stays one file. Holes stay holes.
type copier struct {
	from, to *os.Root
	// mask is cleared from every permission.
	mask fs.FileMode
	// owned is true where owners can be kept.
	owned bool
	names map[inode]string // the first names of files of several
	links []hardLink
	// live is true where the tree is written to meanwhile: what has gone is left out, and
	// what has been cut short is copied as far as it goes.
	live bool
}

// inode is a file, whatever its name.
type inode struct{ dev, ino uint64 }

// hardLink is another name of a file.
type hardLink struct{ first, name string }

// copyTree copies what is in the folder from into the empty folder to. Where owners can be
// kept nobody but this process's user gets into that before all is there: who could would
// have names in it stand for other files, of which owners and permissions would change.
func copyTree(ctx context.Context, from, to string, mask fs.FileMode) error {
	return copyWith(ctx, from, to, &copier{mask: mask})
}

func copyWith(ctx context.Context, from, to string, c *copier) error {
	src, err := os.OpenRoot(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer src.Close()
	dst, err := os.OpenRoot(to)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer dst.Close()
	if mayOwn() {
		if err := errors.Join(os.Lchown(to, os.Geteuid(), os.Getegid()), os.Chmod(to, 0o700)); err != nil {
			return fmt.Errorf("copy to %s: %w", to, err)
		}
		if empty, err := isEmpty(to); err != nil || !empty { // somebody was faster
			return errors.Join(fmt.Errorf("copy to %s: it is not empty any more", to), err)
		}
	}
	c.from, c.to, c.owned, c.names = src, dst, mayOwn(), map[inode]string{}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}

// adoptTree copies a state folder that moult did not make.
func adoptTree(from, to string) error {
	u, err := inspect(from)
	if err != nil {
		return err
	}
	if err := CheckSpace(to, u.disk+diskReserve); err != nil {
		return err
	}
	return copyTree(context.Background(), from, to, 0)
}

type copyItem struct {
	name string
	info fs.FileInfo
}

func (c *copier) run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	files := make(chan copyItem, copyWorkers)
	var workers sync.WaitGroup
	for range copyWorkers {
		workers.Go(func() {
			for f := range files {
				if err := c.file(ctx, f); err != nil {
					cancel(err)
				}
			}
		})
	}
	dirs, err := c.walk(ctx, files)
	close(files)
	workers.Wait()
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for _, l := range c.links {
		if err := c.to.Link(l.first, l.name); err != nil && !c.gone(err) {
			return err
		}
	}
	// Folders last and deepest first: their files change their times, and
	// their permissions may forbid writing.
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := c.dress(dirs[i]); err != nil && !c.gone(err) {
			return err
		}
	}
	return nil
}

// walk makes folders and links, and hands on the files. It returns the folders
// in the order in which they were made.
func (c *copier) walk(ctx context.Context, files chan<- copyItem) (dirs []copyItem, err error) {
	visit := walk
	if c.live {
		visit = walkLive
	}
	err = visit(c.from, func(name string, info fs.FileInfo) error {
		if c.live && info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
			return nil // software takes its own away when it ends
		}
		link, err := c.check(name, info)
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			dirs = append(dirs, copyItem{name, info})
			if name == "." {
				return nil
			}
			return c.to.Mkdir(name, 0o700)
		case link != "":
			return c.link(name, link, info)
		}
		if i, several := inodeOf(info); several {
			if first, known := c.names[i]; known {
				c.links = append(c.links, hardLink{first, name})
				return nil
			}
			c.names[i] = name
		}
		select {
		case files <- copyItem{name, info}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	return dirs, err
}

// check is checkEntry, but that a live tree may have links that lead out of it: a program
// that reads it may leave them out, and none is followed here.
func (c *copier) check(name string, info fs.FileInfo) (link string, err error) {
	switch kindOf := info.Mode().Type(); {
	case !c.live || kindOf == 0 || kindOf == fs.ModeDir:
		return checkEntry(c.from, name, info)
	case kindOf == fs.ModeSymlink:
		return c.from.Readlink(name)
	}
	return "", uncopyable("%s is a %s, of which a copy cannot be made: have rehearse.snapshot make the copy of the state", filepath.Join(c.from.Name(), name), kind(info.Mode()))
}

func (c *copier) link(name, text string, info fs.FileInfo) error {
	if err := c.to.Symlink(text, name); err != nil {
		return err
	}
	return c.chown(name, info)
}

func (c *copier) file(ctx context.Context, f copyItem) error {
	in, err := openRegular(c.from, f.name, f.info)
	if err != nil && (c.gone(err) || c.replaced(f)) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.OpenFile(f.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copyData(ctx, out, in, f.info.Size())
	if c.live && errors.Is(err, io.EOF) {
		err = nil // it has become shorter
	}
	if err == nil {
		err = c.dressOpen(f, out, in)
	}
	return errors.Join(err, out.Close())
}

// dress gives the copy of a folder what dressOpen does.
func (c *copier) dress(f copyItem) error {
	in, err := c.from.Open(f.name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.Open(f.name)
	if err != nil {
		return err
	}
	defer out.Close()
	return c.dressOpen(f, out, in)
}

// dressOpen gives a copy its owner, extended attributes, permissions and time, in this
// order: a new owner takes capabilities and setuid bits away, and permissions may forbid
// its owner to set attributes.
func (c *copier) dressOpen(f copyItem, out, in *os.File) error {
	if err := c.chown(f.name, f.info); err != nil {
		return err
	}
	if err := copyAttributes(out, in); err != nil {
		return err
	}
	keep := fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if err := c.to.Chmod(f.name, f.info.Mode()&keep&^c.mask); err != nil {
		return err
	}
	return c.to.Chtimes(f.name, f.info.ModTime(), f.info.ModTime())
}

// mayOwn reports whether files may be given to others.
func mayOwn() bool { return os.Geteuid() == 0 }

// Keepable returns an error that names a file of a state folder of which a copy would
// lack something: it is for before the node goes down. Sockets and pipes, which a copy
// refuses, are passed over: software takes its own away when it ends. So is what has gone
// meanwhile.
func Keepable(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return walkLive(root, func(name string, info fs.FileInfo) error {
		switch {
		case info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) != 0:
			return nil
		case info.Mode().IsRegular() && !mayOwn():
			return keepable(root, name, info)
		}
		_, err := checkEntry(root, name, info)
		return err
	})
}

// keepable is Keepable for one file, where this process is not root.
func keepable(root *os.Root, name string, info fs.FileInfo) error {
	where := filepath.Join(root.Name(), name)
	if uid, _, ok := owner(info); ok && uid != os.Geteuid() && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return fmt.Errorf("%s is run with the rights of user %d (%v), and only root can make a copy that is: run the agent as root, or give the release a transform program", where, uid, info.Mode())
	}
	f, err := openRegular(root, name, info)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := attributes(f)
	for _, attribute := range names {
		if privileged(attribute) {
			return fmt.Errorf("%s has the extended attribute %s, which only root can give to a copy: run the agent as root, or give the release a transform program", where, attribute)
		}
	}
	return err
}

func (c *copier) chown(name string, info fs.FileInfo) error {
	uid, gid, ok := owner(info)
	if !ok || !c.owned {
		return nil
	}
	return c.to.Lchown(name, uid, gid)
}

// copyData copies the parts of a file that hold data.
func copyData(ctx context.Context, out, in *os.File, size int64) error {
	for off := int64(0); off < size; {
		start, end, err := nextData(in, off, size)
		if err != nil {
			return err
		}
		if err := copyPart(ctx, out, in, start, end); err != nil {
			return err
		}
		off = end
	}
	return out.Truncate(size)
}

// copyPart copies [start,end) in steps, so that a cancelled copy ends soon.
// Between two files io.CopyN is the kernel's copy_file_range, which shares the
// blocks where the file system can.
func copyPart(ctx context.Context, out, in *os.File, start, end int64) error {
	if start >= end {
		return nil
	}
	if _, err := in.Seek(start, io.SeekStart); err != nil {
		return err
	}
	if _, err := out.Seek(start, io.SeekStart); err != nil {
		return err
	}
	for start < end {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := io.CopyN(out, in, min(copyStep, end-start))
		if err != nil {
			return fmt.Errorf("%s: %w", in.Name(), err)
		}
		start += n
	}
	return nil
}

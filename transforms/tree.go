package transforms

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"moult/store/bundle"
	"moult/store/durable"
)

// usage is what a tree holds.
type usage struct {
	objects int   // regular files
	bytes   int64 // their lengths
	disk    int64 // what they take on disk: less for files with holes, or of several names
	several map[inode]bool
}

func (u *usage) add(info fs.FileInfo) {
	if !info.Mode().IsRegular() {
		return
	}
	u.objects++
	u.bytes += info.Size()
	if i, several := inodeOf(info); several {
		if u.several[i] {
			return
		}
		if u.several == nil {
			u.several = map[inode]bool{}
		}
		u.several[i] = true
	}
	u.disk += onDisk(info)
}

// measure adds up a tree that may be changing meanwhile.
func measure(dir string) (usage, error) {
	var u usage
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		u.add(info)
		return nil
	})
	return u, err
}

// walk visits the tree below root in lexical order, root itself as ".".
func walk(root *os.Root, visit func(name string, info fs.FileInfo) error) error {
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return visit(name, info)
	})
}

// walkLive is walk for a tree that may be changing meanwhile.
func walkLive(root *os.Root, visit func(name string, info fs.FileInfo) error) error {
	gone := func(err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		info, err := e.Info()
		if err == nil {
			err = visit(name, info)
		}
		return gone(err)
	})
}

// inspect adds up a tree and refuses what a slot must not hold.
func inspect(dir string) (usage, error) {
	var u usage
	root, err := os.OpenRoot(dir)
	if err != nil {
		return u, err
	}
	defer root.Close()
	err = walk(root, func(name string, info fs.FileInfo) error {
		u.add(info)
		_, err := checkEntry(root, name, info)
		return err
	})
	return u, err
}

// checkEntry refuses what is neither regular file, folder, nor a symbolic link
// that stays inside the tree. It returns a link's text.
func checkEntry(root *os.Root, name string, info fs.FileInfo) (link string, err error) {
	switch {
	case info.Mode().IsRegular(), info.IsDir():
		return "", nil
	case info.Mode().Type() != fs.ModeSymlink:
		return "", uncopyable("%s is a %s; a slot holds files, folders and links only: remove it, or give the release a transform program that leaves it out", filepath.Join(root.Name(), name), kind(info.Mode()))
	}
	link, err = root.Readlink(name)
	if err != nil {
		return "", err
	}
	if len(link) > maxLinkTarget || path.IsAbs(link) || !filepath.IsLocal(path.Join(path.Dir(name), link)) {
		return "", uncopyable("%s is a link to %.200q, which is not inside the slot: a slot must be complete in itself", filepath.Join(root.Name(), name), link)
	}
	return link, nil
}

// Uncopyable says what a slot must not hold.
type Uncopyable struct{ text string }

func (u *Uncopyable) Error() string { return u.text }

func uncopyable(format string, args ...any) error { return &Uncopyable{fmt.Sprintf(format, args...)} }

func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

const digestDomain = "moult slot v1\n"

// DigestTree returns a digest of everything that software can read in a folder:
// the names, kinds, permissions and contents below it, and link texts; not
// times or owners. It also counts the regular files and their bytes. Two trees
// have the same digest only if they are the same.
//
// The digest is the SHA-256 of "moult slot v1\n" and, for each entry in
// lexical order of its path, of: the length of the path (8 bytes, big endian),
// the path, the mode as Go's fs.FileMode (4 bytes), and for a file the SHA-256
// of its content, for a link the SHA-256 of its text.
func DigestTree(dir string) (d bundle.Digest, objects int, size int64, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return d, 0, 0, fmt.Errorf("digest of %s: %w", dir, err)
	}
	defer root.Close()
	h := sha256.New()
	io.WriteString(h, digestDomain)
	err = walk(root, func(name string, info fs.FileInfo) error {
		writeName(h, name, info.Mode())
		switch {
		case info.Mode().IsRegular():
			objects++
			n, err := hashFile(h, root, name, info)
			size += n
			return err
		case info.Mode().Type() == fs.ModeSymlink:
			link, err := root.Readlink(name)
			sum := sha256.Sum256([]byte(link))
			h.Write(sum[:])
			return err
		}
		return nil
	})
	if err != nil {
		return bundle.Digest{}, 0, 0, fmt.Errorf("digest of %s: %w", dir, err)
	}
	return bundle.Digest(h.Sum(nil)), objects, size, nil
}

func writeName(h hash.Hash, name string, mode fs.FileMode) {
	b := binary.BigEndian.AppendUint64(nil, uint64(len(name)))
	b = append(b, name...)
	h.Write(binary.BigEndian.AppendUint32(b, uint32(mode)))
}

func hashFile(h hash.Hash, root *os.Root, name string, info fs.FileInfo) (int64, error) {
	f, err := openRegular(root, name, info)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	content := sha256.New()
	n, err := io.Copy(content, f)
	h.Write(content.Sum(nil))
	return n, err
}

// openRegular opens the very file that info was read from: not what took its
// name since, such as a pipe that would block.
func openRegular(root *os.Root, name string, info fs.FileInfo) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !now.Mode().IsRegular() || !os.SameFile(info, now) {
		return nil, errors.Join(fmt.Errorf("%s was replaced while it was read", filepath.Join(root.Name(), name)), f.Close())
	}
	return f, nil
}

// fingerprint is a digest of a tree's metadata. Unlike DigestTree it reads no
// content, so that it costs little while a node is down; it tells a changed
// file by its change time, which the kernel sets and no program can.
type fingerprint [sha256.Size]byte

func fingerprintOf(dir string) (fingerprint, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fingerprint{}, err
	}
	defer root.Close()
	h := sha256.New()
	err = walk(root, func(name string, info fs.FileInfo) error {
		writeName(h, name, info.Mode())
		b := binary.BigEndian.AppendUint64(nil, uint64(info.Size()))
		b = binary.BigEndian.AppendUint64(b, uint64(info.ModTime().UnixNano()))
		h.Write(appendIdentity(b, info))
		return nil
	})
	return fingerprint(h.Sum(nil)), err
}

// RemoveTree removes dir and all below it, also where a folder's permissions
// forbid its owner to. A missing dir is no error.
func RemoveTree(dir string) error { return removeTree(dir) }

func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	root, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer root.Close()
	walkErr := fs.WalkDir(root.FS(), filepath.Base(dir), func(p string, e fs.DirEntry, err error) error {
		if e == nil || !e.IsDir() {
			return nil
		}
		// WalkDir tells of a folder first by name, then, where it could not be
		// read, with the error; by then the permission is there.
		return root.Chmod(p, 0o700)
	})
	return errors.Join(walkErr, os.RemoveAll(dir))
}

// syncTree makes a tree durable.
func syncTree(dir string) error {
	u, err := measure(dir)
	if err != nil {
		return err
	}
	if u.objects > syncFilesMax {
		if done, err := syncFileSystem(dir); done || err != nil {
			return err
		}
	}
	return durable.SyncTree(dir)
}

// isEmpty reports whether dir, which must exist, has no entries.
func isEmpty(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	switch _, err := d.ReadDir(1); {
	case errors.Is(err, io.EOF):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, nil
}

// tail keeps the last maxTail bytes that were written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*maxTail {
		t.b = append(t.b[:0], t.b[len(t.b)-maxTail:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	b := t.b
	if len(b) > maxTail {
		b = b[len(b)-maxTail:]
	}
	return string(bytes.ToValidUTF8(bytes.TrimSpace(b), []byte("?")))
}

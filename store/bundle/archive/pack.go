package archive

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrUnfit is a file or a folder that cannot be an artifact: links, devices,
// names that are not portable, too many files, too much data. It is for the
// person who builds the release.
var ErrUnfit = errors.New("not fit for an artifact")

// PackStats says what Pack wrote.
type PackStats struct {
	Files, Folders int
	Bytes          int64 // contents of the files together, without the tar's headers
}

// Pack writes the file or folder at from as an artifact tar. The bytes depend
// on names, contents and executable bits alone: not on times, owners, the
// place of the folder or the order in which the system lists it.
//
// A single file becomes an artifact of that one file, called name, or as it is
// called now where name is empty. A folder's content lies at the top of the
// artifact, and name must be empty. A link as from itself is followed, for the
// caller named it; links below it are refused.
func Pack(ctx context.Context, w io.Writer, from, name string) (PackStats, error) {
	entries, root, err := listSource(from, name)
	if err != nil {
		return PackStats{}, fmt.Errorf("pack %s: %w", from, err)
	}
	stats, err := packEntries(ctx, w, root, entries)
	if err = errors.Join(err, root.Close()); err != nil {
		return PackStats{}, fmt.Errorf("pack %s: %w", from, err)
	}
	return stats, nil
}

// packEntry is one file or folder to pack.
type packEntry struct {
	name   string // in the artifact
	source string // in the root
	info   fs.FileInfo
}

// listSource returns what to pack, sorted, and the root to open it in.
func listSource(from, name string) ([]packEntry, *os.Root, error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case info.IsDir():
		if name != "" {
			return nil, nil, fmt.Errorf("%w: it is a folder, only a single file can be given the name %q", ErrUnfit, name)
		}
		root, err := os.OpenRoot(from)
		if err != nil {
			return nil, nil, err
		}
		entries, err := listFolder(root.FS())
		if err != nil {
			return nil, nil, errors.Join(err, root.Close())
		}
		return entries, root, nil
	case info.Mode().IsRegular():
		real, err := filepath.EvalSymlinks(from)
		if err != nil {
			return nil, nil, err
		}
		name = cmp.Or(name, filepath.Base(from))
		if err := checkTreeName(name); err != nil || strings.Contains(name, "/") {
			return nil, nil, fmt.Errorf("%w: %q is no name for a file", ErrUnfit, name)
		}
		root, err := os.OpenRoot(filepath.Dir(real))
		if err != nil {
			return nil, nil, err
		}
		return []packEntry{{name: name, source: filepath.Base(real), info: info}}, root, nil
	}
	return nil, nil, fmt.Errorf("%w: it is a %s, want a file or a folder", ErrUnfit, kindOf(info.Mode()))
}

func listFolder(tree fs.FS) ([]packEntry, error) {
	var entries []packEntry
	files := 0
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if err := checkTreeName(name); err != nil {
			return fmt.Errorf("%w: %w", ErrUnfit, err)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case info.Mode().IsRegular():
			files++
		case !info.IsDir():
			return fmt.Errorf("%w: %s is a %s: an artifact holds plain files and folders, so put a copy there or leave it out", ErrUnfit, name, kindOf(info.Mode()))
		}
		if len(entries) == MaxEntries {
			return fmt.Errorf("%w: more than %d files and folders: pack them into one file that the software opens", ErrUnfit, MaxEntries)
		}
		entries = append(entries, packEntry{name: name, source: name, info: info})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if files == 0 {
		return nil, fmt.Errorf("%w: the folder holds no file", ErrUnfit)
	}
	slices.SortFunc(entries, func(a, b packEntry) int { return cmp.Compare(a.name, b.name) })
	return entries, nil
}

func packEntries(ctx context.Context, w io.Writer, root *os.Root, entries []packEntry) (PackStats, error) {
	var stats PackStats
	tw := tar.NewWriter(w)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return stats, err
		}
		if e.info.IsDir() {
			stats.Folders++
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: e.name + "/", Mode: 0o755}); err != nil {
				return stats, fmt.Errorf("%s: %w", e.name, err)
			}
			continue
		}
		size := e.info.Size()
		if size > MaxFileBytes || stats.Bytes+size > MaxTreeBytes {
			return stats, fmt.Errorf("%w: %s of %d bytes: the most is %d for a file and %d for all", ErrUnfit, e.name, size, int64(MaxFileBytes), int64(MaxTreeBytes))
		}
		if err := packFile(ctx, tw, root, e); err != nil {
			return stats, fmt.Errorf("%s: %w", e.name, err)
		}
		stats.Files++
		stats.Bytes += size
	}
	return stats, tw.Close()
}

func packFile(ctx context.Context, tw *tar.Writer, root *os.Root, e packEntry) (err error) {
	f, err := root.Open(e.source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if rights := e.info.Mode() & (fs.ModeSetuid | fs.ModeSetgid); rights != 0 || hasCapabilities(filepath.Join(root.Name(), filepath.FromSlash(e.source))) {
		return fmt.Errorf("%w: it is run with rights of its own (setuid, setgid or capabilities), which an artifact does not keep: clear them, and give the rights on the node", ErrUnfit)
	}
	mode := int64(0o644)
	if e.info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: mode, Size: e.info.Size()}); err != nil {
		return err
	}
	n, err := io.Copy(tw, contextReader{ctx, f})
	switch {
	case errors.Is(err, tar.ErrWriteTooLong):
		return fmt.Errorf("it grew while it was packed: build again when nothing writes to it")
	case err != nil:
		return err
	case n != e.info.Size():
		return fmt.Errorf("it shrank while it was packed: build again when nothing writes to it")
	}
	return nil
}

// contextReader ends a long copy when the context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// checkTreeName refuses paths that would not lie inside the artifact's folder,
// or would mean something else on another system. The cause is returned
// without a class; the callers have different ones.
func checkTreeName(name string) error {
	switch {
	case len(name) > MaxPathBytes:
		return fmt.Errorf("path %.40q… of %d bytes: the most is %d", name, len(name), MaxPathBytes)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("path %q: not UTF-8 without control characters", name)
	case strings.Contains(name, `\`):
		return fmt.Errorf(`path %q: a \ separates folders on some systems`, name)
	case name == "." || path.Clean(name) != name || !filepath.IsLocal(filepath.FromSlash(name)):
		return fmt.Errorf("path %q: not a plain path inside the artifact", name)
	case strings.Count(name, "/") >= MaxPathDepth:
		return fmt.Errorf("path %.40q…: more than %d folders deep", name, MaxPathDepth)
	}
	for element := range strings.SplitSeq(name, "/") {
		if len(element) > MaxNameBytes {
			return fmt.Errorf("name %.40q… of %d bytes: the most is %d", element, len(element), MaxNameBytes)
		}
	}
	return nil
}

// kindOf names a kind of file for people.
func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

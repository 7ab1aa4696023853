package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// trailerBytes end every tar: two blocks of zero bytes.
const trailerBytes = 2 * blockBytes

// Extract lays an artifact tar out in root, which must be an empty folder, and
// returns when every file and folder is durable. The caller has verified the
// digest of the tar; nevertheless nothing is taken from it but what Pack
// writes, inside the bounds of this package, and nothing is written outside
// root. Errors are ErrCorrupt for a tar that Pack would not write, or those of
// r and of the file system.
//
// After an error root holds a part of the artifact: remove it and begin again.
func Extract(r io.Reader, root *os.Root) error {
	if err := extract(r, root); err != nil {
		return fmt.Errorf("extract artifact to %s: %w", root.Name(), err)
	}
	return nil
}

func extract(r io.Reader, root *os.Root) error {
	if err := checkEmpty(root); err != nil {
		return err
	}
	x := extractor{root: root, in: &countingReader{r: r}}
	x.tar = tar.NewReader(x.in)
	for {
		hdr, err := x.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return tarError(err)
		}
		if err := x.entry(hdr); err != nil {
			return err
		}
		x.end = x.in.n
	}
	if err := x.checkEnd(); err != nil {
		return err
	}
	return syncFolders(root)
}

type extractor struct {
	root    *os.Root
	in      *countingReader
	tar     *tar.Reader
	end     int64  // where the content of the last entry ended
	last    string // name of the last entry
	entries int
	files   int
	bytes   int64
}

func (x *extractor) entry(hdr *tar.Header) error {
	name := hdr.Name
	if hdr.Typeflag == tar.TypeDir {
		name = strings.TrimSuffix(name, "/")
	}
	if err := x.check(name, hdr); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	x.last = name
	x.entries++
	x.bytes += hdr.Size
	if hdr.Typeflag == tar.TypeDir {
		if err := x.root.Mkdir(name, 0o755); err != nil {
			return x.missingFolder(name, err)
		}
		// The process's umask must not decide who may run the software.
		return x.root.Chmod(name, 0o755)
	}
	x.files++
	return x.file(name, hdr)
}

// check refuses whatever Pack does not write.
func (x *extractor) check(name string, hdr *tar.Header) error {
	if err := checkTreeName(name); err != nil {
		return err
	}
	for key := range hdr.PAXRecords {
		if key != "path" {
			return fmt.Errorf("%s: unknown attribute %.40q", name, key)
		}
	}
	switch {
	case hdr.Format != tar.FormatUSTAR && hdr.Format != tar.FormatPAX:
		return fmt.Errorf("%s: %v format, want ustar or pax", name, hdr.Format)
	case hdr.Typeflag != tar.TypeDir && hdr.Typeflag != tar.TypeReg:
		return fmt.Errorf("%s: type %q, want a plain file or a folder", name, hdr.Typeflag)
	case hdr.Mode != 0o755 && (hdr.Mode != 0o644 || hdr.Typeflag == tar.TypeDir):
		return fmt.Errorf("%s: mode %#o, want 0755 or, for a file, 0644", name, hdr.Mode)
	case hdr.Typeflag == tar.TypeDir && hdr.Size != 0:
		return fmt.Errorf("%s: a folder of %d bytes", name, hdr.Size)
	case name <= x.last:
		return fmt.Errorf("%s: it comes twice or out of order, after %s", name, x.last)
	case x.entries >= MaxEntries:
		return fmt.Errorf("more than %d files and folders", MaxEntries)
	case hdr.Size < 0 || hdr.Size > MaxFileBytes || hdr.Size > MaxTreeBytes-x.bytes:
		return fmt.Errorf("%s: %d bytes, the most is %d for a file and %d for all", name, hdr.Size, int64(MaxFileBytes), int64(MaxTreeBytes))
	}
	return nil
}

func (x *extractor) file(name string, hdr *tar.Header) (err error) {
	perm := fs.FileMode(hdr.Mode)
	f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return x.missingFolder(name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, x.tar); err != nil {
		return fmt.Errorf("%s: %w", name, tarError(err))
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return f.Sync()
}

// missingFolder explains the one error of the file system that is the tar's fault.
func (x *extractor) missingFolder(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s: its folder does not come before it", ErrCorrupt, name)
	}
	return err
}

// checkEnd requires the whole trailer and nothing after it. tar.Reader alone
// takes a tar that was cut between two entries for a whole one.
func (x *extractor) checkEnd() error {
	if x.in.n != roundUp(x.end)+trailerBytes {
		return fmt.Errorf("%w: it is cut short at byte %d", ErrCorrupt, x.in.n)
	}
	var more [1]byte
	switch _, err := io.ReadFull(x.in, more[:]); {
	case err == nil:
		return fmt.Errorf("%w: more data after its end at byte %d", ErrCorrupt, x.in.n-1)
	case !errors.Is(err, io.EOF):
		return err
	}
	if x.files == 0 {
		return fmt.Errorf("%w: it holds no file", ErrCorrupt)
	}
	return nil
}

// tarError gives the errors that speak of the tar their class, and leaves
// those of the reader below as they are.
func tarError(err error) error {
	for _, bad := range []error{tar.ErrHeader, tar.ErrFieldTooLong, tar.ErrInsecurePath, io.ErrUnexpectedEOF} {
		if errors.Is(err, bad) {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return err
}

func checkEmpty(root *os.Root) (err error) {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	names, err := d.Readdirnames(1)
	switch {
	case len(names) > 0:
		return fmt.Errorf("the folder already holds %q: want an empty one", names[0])
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// syncFolders makes the entries of every folder durable, root's own included.
func syncFolders(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		dir, err := root.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(dir.Sync(), dir.Close())
	})
}

// countingReader also hides other methods of r, so that tar.Reader cannot seek.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

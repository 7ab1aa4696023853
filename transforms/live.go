package transforms

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
)

// copyLive copies what is in the folder from, which is written to meanwhile, into the
// empty folder to. Where it changes, the copy is begun again, some times; torn says that it
// changed in the last one, too, so that the copy may be of no one moment.
func copyLive(ctx context.Context, from, to string) (torn bool, err error) {
	for round := 1; ; round++ {
		before, err := fingerprintLive(from)
		if err != nil {
			return true, err
		}
		if err := copyWith(ctx, from, to, &copier{live: true}); err != nil {
			return true, err
		}
		after, err := fingerprintLive(from)
		if err != nil || after == before || round == liveRounds {
			return after != before, err
		}
		if err := empty(to); err != nil {
			return true, err
		}
	}
}

// copyLive is the job of a Live copy without a program.
func (j Job) copyLive(ctx context.Context) (torn bool, err error) {
	u, err := measure(j.Old)
	if err == nil {
		err = CheckSpace(j.New, u.disk+j.reserve())
	}
	if err == nil {
		torn, err = copyLive(ctx, j.Old, j.New)
	}
	if err != nil {
		return torn, j.failed(err.Error(), err)
	}
	return torn, nil
}

// gone and replaced report that something of a live tree is not there any more.
func (c *copier) gone(err error) bool { return c.live && errors.Is(err, fs.ErrNotExist) }

func (c *copier) replaced(f copyItem) bool {
	now, err := c.from.Lstat(f.name)
	return c.live && (errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(f.info, now))
}

// fingerprintLive is fingerprintOf for a tree that may be changing meanwhile. Sockets and
// pipes, which are not copied, do not count.
func fingerprintLive(dir string) (fingerprint, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fingerprint{}, err
	}
	defer root.Close()
	h := sha256.New()
	err = walkLive(root, func(name string, info fs.FileInfo) error {
		if info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) == 0 {
			writeName(h, name, info.Mode())
			b := binary.BigEndian.AppendUint64(nil, uint64(info.Size()))
			h.Write(appendIdentity(binary.BigEndian.AppendUint64(b, uint64(info.ModTime().UnixNano())), info))
		}
		return nil
	})
	return fingerprint(h.Sum(nil)), err
}

// empty removes all that is in a folder.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, removeTree(dir+string(os.PathSeparator)+e.Name()))
	}
	return err
}

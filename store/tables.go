package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// checkTables verifies every byte of Badger's tables before Badger opens them:
// Badger ends the process over a table whose footer is damaged.
//
// A table is: blocks; index; index length (4 bytes); checksum of the index;
// checksum length (4 bytes). A block is: data; checksum of the data; checksum
// length (4 bytes). Lengths are big-endian, checksums protobuf, the index a
// flatbuffer.
//
// Only those that the manifest names count: a crash while Badger writes a table leaves
// one that is named by nobody and may be empty, and what it was made of is still in
// the log. The database may be open: a table that is no longer named once it was
// looked at was compacted away meanwhile.
func checkTables(dir string) error {
	named, err := namedTables(dir)
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(named)) {
		err := checkTable(table.NewFilename(id, dir))
		if err == nil {
			continue
		}
		now, nowErr := namedTables(dir)
		if nowErr != nil {
			return nowErr
		}
		if _, still := now[id]; still {
			return fmt.Errorf("table %s: %w", table.IDToFilename(id), err)
		}
	}
	return nil
}

// namedTables returns the tables that Badger's manifest names.
func namedTables(dir string) (_ map[uint64]badger.TableManifest, err error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if r := recover(); r != nil {
			err = fmt.Errorf("the manifest is unreadable: %.100v", r)
		}
	}()
	m, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	if err != nil {
		return nil, fmt.Errorf("the manifest: %w", err)
	}
	return m.Tables, nil
}

func checkTable(name string) (err error) {
	// For writing too, as Badger will: a wrong owner is found here, where it
	// cannot be taken for damage.
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if r := recover(); r != nil { // from the flatbuffer of a forged index
			err = fmt.Errorf("unreadable: %.100v", r)
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	tail := &tailReader{f: f, end: fi.Size()}
	sum := tail.take(int64(tail.length()))
	size := int64(tail.length())
	start := tail.end - size
	index := tail.take(size)
	if tail.err != nil {
		return tail.err
	}
	if err := checkSum(index, sum); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return checkBlocks(f, fb.GetRootAsTableIndex(index, 0), start)
}

// checkBlocks verifies that the blocks are whole and fill the file up to end.
func checkBlocks(f *os.File, index *fb.TableIndex, end int64) error {
	var at int64
	for i := range index.OffsetsLength() {
		var b fb.BlockOffset
		if !index.Offsets(&b, i) || int64(b.Offset()) != at {
			return fmt.Errorf("block %d is not where the index says", i)
		}
		at += int64(b.Len())
		tail := &tailReader{f: f, end: at}
		sum := tail.take(int64(tail.length()))
		data := tail.take(tail.end - int64(b.Offset()))
		if tail.err != nil {
			return fmt.Errorf("block %d: %w", i, tail.err)
		}
		if err := checkSum(data, sum); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
	}
	if at != end {
		return fmt.Errorf("its blocks end at %d instead of %d", at, end)
	}
	return nil
}

func checkSum(data, sum []byte) error {
	var c pb.Checksum
	if err := proto.Unmarshal(sum, &c); err != nil {
		return fmt.Errorf("checksum: %w", err)
	}
	if c.Algo != pb.Checksum_CRC32C && c.Algo != pb.Checksum_XXHash64 {
		return fmt.Errorf("checksum of unknown kind %d", c.Algo)
	}
	return y.VerifyChecksum(data, &c)
}

// tailReader takes byte strings from the end of a file, and remembers the
// first error.
type tailReader struct {
	f   *os.File
	end int64
	err error
}

// take returns the n bytes before end, and moves end.
func (t *tailReader) take(n int64) []byte {
	if t.err != nil {
		return nil
	}
	if n < 0 || n > t.end || n > 2*memTableSize {
		t.err = fmt.Errorf("a length of %d at %d is impossible", n, t.end)
		return nil
	}
	b := make([]byte, n)
	if _, err := t.f.ReadAt(b, t.end-n); err != nil {
		t.err = err
		return nil
	}
	t.end -= n
	return b
}

func (t *tailReader) length() uint32 {
	b := t.take(4)
	if t.err != nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

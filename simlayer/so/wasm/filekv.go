package wasm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"moult/store/durable"
)

// batchFile has a batch that is being written. It is the promise of the batch:
// from when it is durable the batch counts as done.
const batchFile = ".batch"

// FileKV is a KV in a folder: a file a key, named by FileName, with the value and
// nothing else, so that a transform can read it. A batch of several changes is
// written to a file of its own first, and then carried out; OpenFileKV ends what a
// crash has interrupted. Whoever reads the folder itself calls RecoverFileKV first.
// All is kept in memory too.
type FileKV struct {
	dir string

	mu     sync.Mutex
	values map[string][]byte
	keys   []string // sorted
	bytes  int      // of keys and values
	// owed is a batch that counts but that is not wholly in its files yet.
	owed []Op
}

// OpenFileKV opens the state in dir, which it makes if it is not there. Files whose
// names no key has are an error that names one.
func OpenFileKV(dir string) (*FileKV, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the object's state: %w", err)
	}
	if err := RecoverFileKV(dir); err != nil {
		return nil, fmt.Errorf("open the object's state: %w", err)
	}
	kv := &FileKV{dir: dir, values: map[string][]byte{}}
	if err := kv.load(); err != nil {
		return nil, fmt.Errorf("open the object's state in %s: %w", dir, err)
	}
	return kv, nil
}

// RecoverFileKV ends what a crash has interrupted in the state in dir: then its files
// are the keys, each with the value that counts, and nothing else. Nobody may have the
// state open. Doing it twice changes nothing.
func RecoverFileKV(dir string) error {
	kv := &FileKV{dir: dir}
	err := kv.recover()
	if err == nil {
		err = kv.sweep()
	}
	if err != nil {
		return fmt.Errorf("end what a crash has interrupted in %s: %w", dir, err)
	}
	return nil
}

// sweep removes files that were not finished.
func (kv *FileKV) sweep() error {
	entries, err := os.ReadDir(kv.dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && strings.Contains(e.Name(), ".tmp-") {
			err = errors.Join(err, os.Remove(filepath.Join(kv.dir, e.Name())))
		}
	}
	return err
}

// recover carries out a batch that counts.
func (kv *FileKV) recover() error {
	data, err := readPlain(filepath.Join(kv.dir, batchFile), maxBatch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ops, err := decodeBatch(data)
	if err != nil {
		return fmt.Errorf("%s: %w", batchFile, err)
	}
	return kv.write(ops)
}

func (kv *FileKV) load() error {
	entries, err := os.ReadDir(kv.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(kv.dir, e.Name())
		key, err := KeyOf(e.Name())
		if err != nil {
			return err
		}
		value, err := readPlain(path, MaxStateValue)
		if err != nil {
			return err
		}
		if len(kv.keys) == MaxStateKeys || kv.bytes+len(key)+len(value) > MaxStateBytes {
			return fmt.Errorf("%s: %w: at most %d keys, %d bytes a value, %d bytes in all", e.Name(), ErrFull, MaxStateKeys, MaxStateValue, MaxStateBytes)
		}
		kv.values[key] = value
		kv.keys = append(kv.keys, key)
		kv.bytes += len(key) + len(value)
	}
	slices.Sort(kv.keys)
	return nil
}

// readPlain reads a file of at most so many bytes that has no other name. The folder may
// be a transform's work: a link, a pipe or a device in it is not followed.
func readPlain(path string, most int64) (data []byte, err error) {
	plain := func(info fs.FileInfo) error {
		switch {
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s is not a regular file: a state has a regular file for each key, and nothing else", info.Name())
		case severalNames(info):
			return fmt.Errorf("%s is a hard link: put a copy there", info.Name())
		case info.Size() > most:
			return fmt.Errorf("%s: %w: %d bytes, at most %d", info.Name(), ErrFull, info.Size(), most)
		}
		return nil
	}
	named, err := os.Lstat(path)
	if err == nil {
		err = plain(named)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe that took its name would block
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = plain(info)
	}
	if err == nil && !os.SameFile(named, info) {
		err = fmt.Errorf("%s was replaced while it was read", named.Name())
	}
	if err != nil {
		return nil, err
	}
	data, err = io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s: %w: more than %d bytes", named.Name(), ErrFull, most)
	}
	return data, err
}

// Get implements KV.
func (kv *FileKV) Get(key string) ([]byte, bool, error) {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	v, ok := kv.values[key]
	return v, ok, nil
}

// List implements KV.
func (kv *FileKV) List(prefix, after string, limit int) ([]string, error) {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	i, found := slices.BinarySearch(kv.keys, max(prefix, after))
	if found && kv.keys[i] == after {
		i++
	}
	var keys []string
	for ; i < len(kv.keys) && len(keys) < limit && strings.HasPrefix(kv.keys[i], prefix); i++ {
		keys = append(keys, kv.keys[i])
	}
	return keys, nil
}

// Apply implements KV.
func (kv *FileKV) Apply(ops []Op) error {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	changes, err := kv.check(ops)
	if err != nil || len(changes) == 0 {
		return err
	}
	if kv.owed != nil {
		if err := kv.write(kv.owed); err != nil {
			return fmt.Errorf("end an earlier change of the object's state: %w", err)
		}
		kv.owed = nil
	}
	if len(changes) == 1 {
		if err := kv.writeOne(changes[0]); err != nil {
			return fmt.Errorf("change the object's state: %w", err)
		}
		kv.remember(changes)
		return nil
	}
	batch := encodeBatch(changes)
	if len(batch) > maxBatch {
		return fmt.Errorf("%w: a batch of %d bytes, at most %d", ErrFull, len(batch), maxBatch)
	}
	if err := durable.WriteFile(filepath.Join(kv.dir, batchFile), batch, 0o600); err != nil {
		// It may have got its name all the same; without a name it never counts.
		return errors.Join(fmt.Errorf("change the object's state: %w", err), kv.forget())
	}
	kv.remember(changes)
	if err := kv.write(changes); err != nil {
		// The batch counts: it is written before anything else, or at the next opening.
		kv.owed = changes
	}
	return nil
}

// check returns the changes among ops, with their values copied.
func (kv *FileKV) check(ops []Op) ([]Op, error) {
	if len(ops) > MaxStateOps {
		return nil, fmt.Errorf("%w: %d operations in one batch, at most %d", ErrFull, len(ops), MaxStateOps)
	}
	var changes []Op
	sizes := map[string]int{} // what keys will take, -1 for none
	for _, op := range ops {
		if err := CheckKey(op.Key); err != nil {
			return nil, err
		}
		old, ok := kv.values[op.Key]
		switch op.Kind {
		case IfEqual:
			if !ok || !bytes.Equal(old, op.Value) {
				return nil, fmt.Errorf("%w: %.80q has another value or none", ErrConflict, op.Key)
			}
		case IfAbsent:
			if ok {
				return nil, fmt.Errorf("%w: %.80q is there", ErrConflict, op.Key)
			}
		case Set:
			if len(op.Value) > MaxStateValue {
				return nil, fmt.Errorf("%w: a value of %d bytes, at most %d", ErrFull, len(op.Value), MaxStateValue)
			}
			sizes[op.Key] = len(op.Value)
			changes = append(changes, Op{Set, strings.Clone(op.Key), bytes.Clone(op.Value)})
		case Delete:
			sizes[op.Key] = -1
			changes = append(changes, Op{Delete, strings.Clone(op.Key), nil})
		default:
			return nil, fmt.Errorf("operation %d on the state is not known", op.Kind)
		}
	}
	return changes, kv.fits(sizes)
}

func (kv *FileKV) fits(sizes map[string]int) error {
	keys, total := len(kv.keys), kv.bytes
	for key, size := range sizes {
		if old, ok := kv.values[key]; ok {
			keys--
			total -= len(key) + len(old)
		}
		if size >= 0 {
			keys++
			total += len(key) + size
		}
	}
	if (keys > MaxStateKeys && keys > len(kv.keys)) || (total > MaxStateBytes && total > kv.bytes) {
		return fmt.Errorf("%w: %d keys and %d bytes, at most %d and %d", ErrFull, keys, total, MaxStateKeys, MaxStateBytes)
	}
	return nil
}

// remember carries out changes in memory.
func (kv *FileKV) remember(changes []Op) {
	for _, op := range changes {
		i, found := slices.BinarySearch(kv.keys, op.Key)
		if found {
			kv.bytes -= len(op.Key) + len(kv.values[op.Key])
		}
		switch {
		case op.Kind == Set:
			if !found {
				kv.keys = slices.Insert(kv.keys, i, op.Key)
			}
			kv.values[op.Key] = op.Value
			kv.bytes += len(op.Key) + len(op.Value)
		case found:
			kv.keys = slices.Delete(kv.keys, i, i+1)
			delete(kv.values, op.Key)
		}
	}
}

// write carries out a batch in the files. Doing it twice changes nothing.
func (kv *FileKV) write(ops []Op) error {
	for _, op := range ops {
		if err := kv.writeOne(op); err != nil {
			return err
		}
	}
	return kv.forget()
}

func (kv *FileKV) writeOne(op Op) error {
	path := filepath.Join(kv.dir, FileName(op.Key))
	if op.Kind == Set {
		return durable.WriteFile(path, op.Value, 0o600)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(kv.dir)
}

// forget removes the promise of a batch.
func (kv *FileKV) forget() error {
	if err := os.Remove(filepath.Join(kv.dir, batchFile)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return durable.SyncDir(kv.dir)
}

// encodeBatch writes ops as guests do, after a checksum.
func encodeBatch(ops []Op) []byte {
	data := make([]byte, sha256.Size)
	for _, op := range ops {
		data = append(data, byte(op.Kind))
		data = binary.LittleEndian.AppendUint32(data, uint32(len(op.Key)))
		data = binary.LittleEndian.AppendUint32(data, uint32(len(op.Value)))
		data = append(append(data, op.Key...), op.Value...)
	}
	sum := sha256.Sum256(data[sha256.Size:])
	copy(data, sum[:])
	return data
}

func decodeBatch(data []byte) ([]Op, error) {
	if len(data) < sha256.Size || sha256.Sum256(data[sha256.Size:]) != [sha256.Size]byte(data) {
		return nil, errors.New("its checksum is wrong: the disk has changed it")
	}
	return decodeOps(data[sha256.Size:])
}

// decodeOps reads the operations of a batch: of each its kind, a byte, the lengths
// of key and value, four bytes each, the key and the value. Values share data.
func decodeOps(data []byte) ([]Op, error) {
	var ops []Op
	for len(data) > 0 {
		if len(ops) == MaxStateOps {
			return nil, fmt.Errorf("more than %d operations in one batch", MaxStateOps)
		}
		if len(data) < 9 {
			return nil, errors.New("a batch that ends within an operation")
		}
		key, value := uint64(binary.LittleEndian.Uint32(data[1:])), uint64(binary.LittleEndian.Uint32(data[5:]))
		kind, rest := OpKind(data[0]), data[9:]
		if key+value > uint64(len(rest)) {
			return nil, errors.New("a batch that ends within an operation")
		}
		ops = append(ops, Op{kind, string(rest[:key]), rest[key : key+value]})
		data = rest[key+value:]
	}
	return ops, nil
}

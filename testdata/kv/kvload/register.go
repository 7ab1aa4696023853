package kvload

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

const (
	plainText = "text/plain"
	bytesType = "application/octet-stream"
)

// register is what a worker knows of one of its keys. It has not been written
// where seq is 0.
type register struct {
	key      string
	kind     string // content type
	seq      uint64 // of the last acknowledged write
	issued   uint64 // of the last write at all
	revision int64  // that the key has; 0 where it is not known
	top      int64  // the highest that it has had
	deleted  bool   // by the last acknowledged write
	lost     int    // writes whose outcome is not known; each took a new key
	name     string // key before any loss
}

func newRegister(name, kind string) *register {
	return &register{key: name, name: name, kind: kind}
}

// next returns the value of the next write.
func (r *register) next() (seq uint64, v Value) {
	r.issued++
	return r.issued, r.value(r.issued)
}

// value is what write seq of this register leaves.
func (r *register) value(seq uint64) Value {
	return Value{Data: content(r.key, seq, r.kind), Type: r.kind}
}

// acked notes that write seq was acknowledged with a revision.
func (r *register) acked(seq uint64, revision int64) {
	r.seq, r.revision, r.deleted = seq, revision, false
	r.top = max(r.top, revision)
}

// highest is the highest revision that the key has had, as far as is known.
func (r *register) highest() int64 { return max(r.top, r.revision) }

// removed notes that the key was deleted.
func (r *register) removed() { r.deleted = true }

// abandon goes over to another key: it is not known what became of a write to
// this one, nor when the node will have done with it.
func (r *register) abandon() {
	r.lost++
	*r = register{name: r.name, lost: r.lost, kind: r.kind, key: fmt.Sprintf("%s~%d", r.name, r.lost)}
}

// exists reports whether a read must find a value.
func (r *register) exists() bool { return r.seq > 0 && !r.deleted }

// check compares what a read found with what it must find, and learns the
// revision where it was not known.
func (r *register) check(got Value) error {
	if err := sameValue(r.key, r.value(r.seq), got); err != nil {
		return wrongf("%w (write %d, the last acknowledged)", err, r.seq)
	}
	if got.Revision != 0 && r.revision != 0 && got.Revision != r.revision {
		return wrongf("key %q is at revision %d, but its last write was acknowledged with %d", r.key, got.Revision, r.revision)
	}
	if got.Revision != 0 && got.Revision < r.top {
		return wrongf("key %q is at revision %d, and was at %d before", r.key, got.Revision, r.top)
	}
	if got.Revision != 0 {
		r.revision, r.top = got.Revision, max(r.top, got.Revision)
	}
	return nil
}

func sameValue(key string, want, got Value) error {
	if got.Type != want.Type {
		return wrongf("key %q has the type %q, not %q", key, got.Type, want.Type)
	}
	if !bytes.Equal(got.Data, want.Data) {
		return wrongf("key %q has the value %s, not %s", key, abridge(got.Data), abridge(want.Data))
	}
	return nil
}

func abridge(data []byte) string {
	const most = 60
	if len(data) <= most {
		return fmt.Sprintf("%q", data)
	}
	return fmt.Sprintf("%q… (%d bytes)", data[:most], len(data))
}

// content is the value of write seq of a key: no two writes have the same, and
// text has what is easily mangled on its way.
func content(key string, seq uint64, kind string) []byte {
	if kind == bytesType {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(key), seq))
		// The first bytes are no UTF-8, so they survive as bytes only.
		return append([]byte{0x00, 0xff, 0xfe}, sum[:]...)
	}
	text := fmt.Sprintf("%s #%d \"\\/<&> é✓\t\n\u2028 1e400 ", key, seq)
	return []byte(text + strings.Repeat("x", int(seq*37%512)))
}

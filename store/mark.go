package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/durable"
)

// mark is what floor.json and the database both hold: the floor, and enough to
// tell which of the two has lost something.
type mark struct {
	// Commits counts the write transactions of this data folder since it was
	// made, across fresh databases.
	Commits uint64 `json:"commits"`
	// Start is the last journal entry that is no longer kept: the first that
	// is kept follows it.
	Start anchor `json:"start"`
	Floor Floor  `json:"floor"`
}

// anchor names a journal entry.
type anchor struct {
	Seq  uint64        `json:"seq"`
	Hash bundle.Digest `json:"hash"`
}

// joinMarks returns the mark to go on with: the newer one, with no field of the
// floor lower than in either.
func joinMarks(a, b mark) mark {
	if b.Commits > a.Commits {
		a, b = b, a
	}
	a.Floor = a.Floor.join(b.Floor)
	return a
}

// FloorFormat is the newest form. Marks are read strictly, so a new field of Floor takes a new
// form, which is written only where the field is set: older programs then refuse it by the
// number, and not as damage.
const FloorFormat = 3

func (m mark) format() int {
	switch f := m.Floor; {
	case f.Members != 0 || f.Turned != (view.Turned{}) || f.Final != 0: // once written under 1 and 2, where they are still read
		return 3
	case f.Expired != 0:
		return 2
	default:
		return 1
	}
}

// markFile is floor.json: one line. Sum covers Format and the bytes of Mark.
type markFile struct {
	Format int             `json:"format"`
	Mark   json.RawMessage `json:"mark"`
	Sum    bundle.Digest   `json:"sum"`
}

func markSum(format int, body []byte) bundle.Digest {
	return bundle.Sum(fmt.Appendf(nil, "moult floor %d\n%s", format, body))
}

func encodeMark(m mark) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(markFile{Format: m.format(), Mark: body, Sum: markSum(m.format(), body)})
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// errNewerFormat is not damage: an older program must not touch what a newer
// one has written.
var errNewerFormat = errors.New("written by a newer moult")

func decodeMark(b []byte) (mark, error) {
	var f markFile
	if err := durable.StrictJSON(b, &f); err != nil {
		return mark{}, fmt.Errorf("not a floor: %w", err)
	}
	if f.Sum != markSum(f.Format, f.Mark) {
		return mark{}, errors.New("its checksum does not match its content")
	}
	if f.Format > FloorFormat {
		return mark{}, fmt.Errorf("format %d, this moult reads up to %d: %w", f.Format, FloorFormat, errNewerFormat)
	}
	var m mark
	if err := durable.StrictJSON(f.Mark, &m); err != nil {
		return mark{}, fmt.Errorf("not a floor: %w", err)
	}
	return m, nil
}

func writeMark(path string, m mark) error {
	b, err := encodeMark(m)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, b, 0o600)
}

// readMark returns fs.ErrNotExist where there is no file.
func readMark(path string) (mark, error) {
	b, err := durable.ReadFile(path, maxMarkFile)
	if err != nil {
		return mark{}, err
	}
	return decodeMark(b)
}

// isDamage tells an unreadable mark from a disk or a permission that stands in
// the way.
func isDamage(err error) bool {
	var pe *fs.PathError
	return err != nil && !errors.Is(err, errNewerFormat) && !errors.As(err, &pe)
}

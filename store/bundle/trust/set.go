package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"moult/store/bundle"
)

// Classes of refusal, for errors.Is.
var (
	// ErrMalformed is bytes that are no trust metadata of moult's, whoever signed them.
	ErrMalformed = errors.New("malformed trust metadata")
	// ErrUntrusted is metadata that the keys of this cluster do not vouch for:
	// signed by other keys, by too few, not at all, or changed since.
	ErrUntrusted = errors.New("untrusted metadata")
	// ErrRollback is metadata older than what is known already.
	ErrRollback = errors.New("older trust metadata")
	// ErrConflict is two different contents for one number (P3).
	ErrConflict = errors.New("conflicting content")
)

// Set is the TUF metadata of one moment, as bytes that nobody has verified yet.
// It is what peers send each other and what bundles carry.
type Set struct {
	// Roots is the whole chain: Roots[0] is version 1.
	Roots [][]byte `json:"roots"`
	// The other files are empty in a cluster that has only its first root.
	Timestamp []byte `json:"timestamp,omitempty"`
	Snapshot  []byte `json:"snapshot,omitempty"`
	Targets   []byte `json:"targets,omitempty"`
	// Operator is empty before the first rollout order.
	Operator []byte `json:"operator,omitempty"`
}

// Marshal returns the one encoding of s, at most MaxSetBytes of JSON. The error
// is ErrMalformed where a part of s exceeds its bound.
func (s Set) Marshal() ([]byte, error) {
	if err := s.checkBounds(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode trust metadata: %w", err)
	}
	return data, nil
}

// ParseSet reads what Marshal wrote. It checks the form only: the result is as
// untrusted as data until Verify has seen it. Errors are ErrMalformed.
func ParseSet(data []byte) (Set, error) {
	if len(data) > MaxSetBytes {
		return Set{}, fmt.Errorf("%w: %d bytes, the most is %d", ErrMalformed, len(data), MaxSetBytes)
	}
	var s Set
	if err := json.Unmarshal(data, &s); err != nil {
		return Set{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := s.Marshal()
	if err != nil {
		return Set{}, err
	}
	// One set has one encoding, so that peers can compare sets by digest.
	if !bytes.Equal(again, data) {
		return Set{}, fmt.Errorf("%w: not in the form that moult writes", ErrMalformed)
	}
	return s, nil
}

func (s Set) checkBounds() error {
	if len(s.Roots) < 1 || len(s.Roots) > MaxRoots {
		return fmt.Errorf("%w: %d roots, want 1 to %d", ErrMalformed, len(s.Roots), MaxRoots)
	}
	for i, r := range s.Roots {
		if err := checkLength(rootName(i+1), r, 1, MaxRootBytes); err != nil {
			return err
		}
	}
	// All or none: without a timestamp nothing else can be trusted.
	least := 1
	if s.bare() {
		least = 0
	}
	return errors.Join(
		checkLength(timestampFile, s.Timestamp, least, MaxPinBytes),
		checkLength(snapshotFile, s.Snapshot, least, MaxPinBytes),
		checkLength(targetsFile, s.Targets, least, MaxTargetsBytes),
		checkLength(operatorFile, s.Operator, 0, MaxTargetsBytes))
}

// bare reports whether s has a root and nothing else.
func (s Set) bare() bool {
	return len(s.Timestamp)+len(s.Snapshot)+len(s.Targets)+len(s.Operator) == 0
}

func checkLength(name string, data []byte, least, most int) error {
	if len(data) < least || len(data) > most {
		return fmt.Errorf("%w: %s: %d bytes, want %d to %d", ErrMalformed, name, len(data), least, most)
	}
	return nil
}

// clone copies s, so that neither side can change the other's.
func (s Set) clone() Set {
	c := Set{
		Timestamp: bytes.Clone(s.Timestamp), Snapshot: bytes.Clone(s.Snapshot),
		Targets: bytes.Clone(s.Targets), Operator: bytes.Clone(s.Operator),
		Roots: make([][]byte, len(s.Roots)),
	}
	for i, r := range s.Roots {
		c.Roots[i] = bytes.Clone(r)
	}
	return c
}

// lastRoot returns the root in force.
func (s Set) lastRoot() []byte { return s.Roots[len(s.Roots)-1] }

// Versions are the versions of the metadata files; 0 is "none yet".
type Versions struct {
	Root      int64 `json:"root"`
	Timestamp int64 `json:"timestamp"`
	Snapshot  int64 `json:"snapshot"`
	Targets   int64 `json:"targets"`
	Operator  int64 `json:"operator"`
}

// Check reports ErrRollback when a version of v lies below the floor's.
func (v Versions) Check(floor Versions) error {
	for _, r := range []struct {
		name      string
		got, want int64
	}{
		{"root", v.Root, floor.Root},
		{"timestamp", v.Timestamp, floor.Timestamp},
		{"snapshot", v.Snapshot, floor.Snapshot},
		{"targets", v.Targets, floor.Targets},
		{"operator", v.Operator, floor.Operator},
	} {
		if r.got < r.want {
			return fmt.Errorf("%w: %s version %d, but version %d is known", ErrRollback, r.name, r.got, r.want)
		}
	}
	return nil
}

// Max returns the greater version of each file.
func (v Versions) Max(w Versions) Versions {
	return Versions{
		Root: max(v.Root, w.Root), Timestamp: max(v.Timestamp, w.Timestamp), Snapshot: max(v.Snapshot, w.Snapshot),
		Targets: max(v.Targets, w.Targets), Operator: max(v.Operator, w.Operator),
	}
}

// Ref names a document by content.
type Ref struct {
	Digest bundle.Digest `json:"digest"`
	Length int64         `json:"length"`
}

func refOf(data []byte) Ref { return Ref{Digest: bundle.Sum(data), Length: int64(len(data))} }

// Names of the metadata files, and of their entries in snapshot and timestamp.
const (
	timestampFile = "timestamp.json"
	snapshotFile  = "snapshot.json"
	targetsFile   = "targets.json"
	operatorFile  = "operator.json"
	rootFile      = "root.json"
)

// rootName names one root of the chain.
func rootName(version int) string { return fmt.Sprintf("%d.%s", version, rootFile) }

// sortedVersions returns the keys of m, lowest first.
func sortedVersions(m map[bundle.Version]Ref) []bundle.Version {
	vs := make([]bundle.Version, 0, len(m))
	for n := range m {
		vs = append(vs, n)
	}
	slices.Sort(vs)
	return vs
}

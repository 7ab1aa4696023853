package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// Classes of refusal by ParseManifest, for errors.Is.
var (
	// ErrTooNew is a manifest of a format that this moult does not know yet.
	ErrTooNew = errors.New("manifest needs a newer moult")
	// ErrMalformed is bytes that are not a manifest: bad JSON, unknown fields, too long.
	ErrMalformed = errors.New("malformed manifest")
	// ErrNotCanonical is a manifest in other bytes than MarshalManifest's.
	ErrNotCanonical = errors.New("manifest is not in canonical form")
	// ErrInvalid is a manifest whose fields contradict each other or exceed a bound.
	ErrInvalid = errors.New("invalid manifest")
)

// MarshalManifest validates m and returns its canonical JSON: one line, no
// spaces, the fields in the order of the Go types, map keys sorted, and empty
// maps as {}. Its digest (Sum) is the identity of the release.
func MarshalManifest(m *Manifest) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	data, err := encodeManifest(m)
	if err != nil {
		return nil, err
	}
	if len(data) > MaxManifestBytes {
		return nil, fmt.Errorf("%w: %d bytes, the most is %d: use fewer platforms or bigger chunks", ErrInvalid, len(data), MaxManifestBytes)
	}
	return data, nil
}

// ParseManifest reads canonical JSON from an untrusted source. What it returns
// is valid, and MarshalManifest would write the same bytes again. Errors are
// ErrTooNew, ErrMalformed, ErrNotCanonical or ErrInvalid.
//
// It keeps no reference to data.
func ParseManifest(data []byte) (*Manifest, error) {
	return Form[Manifest]{
		MaxBytes: MaxManifestBytes, Newest: NewestFormat, Marshal: MarshalManifest,
		TooNew: ErrTooNew, Malformed: ErrMalformed, NotCanonical: ErrNotCanonical,
	}.Parse(data)
}

// Form is what documents of a kind have in common of which there is one form only, in
// JSON with a number of their format.
type Form[T any] struct {
	MaxBytes, Newest int
	// Marshal validates a document, and writes the one form of it.
	Marshal func(*T) ([]byte, error)
	// What is not that form is one of these errors, or what Marshal says.
	TooNew, Malformed, NotCanonical error
}

// Parse reads a document from an untrusted source. What it returns is valid, and Marshal
// would write the same bytes again. It keeps no reference to data.
func (f Form[T]) Parse(data []byte) (*T, error) {
	if len(data) > f.MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, the most is %d", f.Malformed, len(data), f.MaxBytes)
	}
	// The format comes first, alone: of a newer format nothing else can be
	// said, least of all that its fields are unknown. Unmarshal also refuses
	// data after the end, which a Decoder would leave.
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("%w: %w", f.Malformed, err)
	}
	if head.Format > f.Newest {
		return nil, fmt.Errorf("%w: it needs moult >= format %d and this one reads up to format %d: upgrade moult on this node first", f.TooNew, head.Format, f.Newest)
	}
	var doc T
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%w of format %d: %w", f.Malformed, head.Format, err)
	}
	again, err := f.Marshal(&doc)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: it differs from its one form from byte %d on: only moult writes it", f.NotCanonical, firstDifference(again, data))
	}
	return &doc, nil
}

// encodeManifest writes the canonical form. Nil and empty maps must not be two
// forms of one manifest, and the caller's manifest must not change.
func encodeManifest(m *Manifest) ([]byte, error) {
	norm := *m
	norm.Classes = maps.Clone(m.Classes)
	if norm.Classes == nil {
		norm.Classes = map[Class]ClassUpgrade{}
	}
	for name, c := range norm.Classes {
		if c.Services == nil {
			c.Services = map[string]Service{}
			norm.Classes[name] = c
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&norm); err != nil {
		return nil, fmt.Errorf("encode manifest of release %d: %w", m.Version, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

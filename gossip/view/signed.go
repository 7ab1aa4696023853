package view

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"

	"moult/store/bundle"
)

// Classes of refusal by Open, for errors.Is.
var (
	// ErrTooLong is a record of more than MaxRecordBytes.
	ErrTooLong = errors.New("status record is too long")
	// ErrMalformed is bytes that are not a record in canonical JSON.
	ErrMalformed = errors.New("malformed status record")
	// ErrTooNew is a record of a format that this moult does not know yet.
	ErrTooNew = errors.New("status record needs a newer moult")
	// ErrSignature is a record that its node has not signed.
	ErrSignature = errors.New("status record is not signed by its node")
	// ErrInvalid is a record whose fields are out of bounds.
	ErrInvalid = errors.New("invalid status record")
)

// RecordFormat is the format that this code writes and the newest it reads.
const RecordFormat = 1

// signedPrefix keeps a signature over a record from being one over anything
// else that a node's key signs (its TLS certificate, for one).
const signedPrefix = "moult status record v1\n"

// Signed is a record as it travels: the bytes that its node signed, and the
// signature. It is a value, comparable, and says nothing until Open has
// verified it. Only Sign and decoding make one.
type Signed struct {
	record    string // immutable, as signed
	signature [ed25519.SignatureSize]byte
}

// wire is the JSON of a record.
type wire struct {
	Format int `json:"format"`
	Record
}

// Sign fills in the node's key and identity and signs r. Reasons and Alarms,
// which are for people, are cut to their bounds and to one line each, and further where
// all is too long together; anything
// else that is out of bounds is an error.
func Sign(key ed25519.PrivateKey, r Record) (Signed, error) {
	s, _, err := signRecord(key, r)
	return s, err
}

// signRecord returns the record, too, as it was signed.
func signRecord(key ed25519.PrivateKey, r Record) (Signed, Record, error) {
	if len(key) != ed25519.PrivateKeySize {
		return Signed{}, Record{}, fmt.Errorf("sign a status record: the key has %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	}
	r.Key = key.Public().(ed25519.PublicKey)
	r.Node = bundle.NodeIDOf(r.Key)
	r.Since = r.Since.UTC().Round(0)
	r.Reason, r.Health.Reason = OneLine(r.Reason, MaxReasonBytes), OneLine(r.Health.Reason, MaxReasonBytes)
	r.Rehearsed.Reason = OneLine(r.Rehearsed.Reason, MaxReasonBytes)
	alarms := make([]string, 0, len(r.Alarms))
	for _, a := range r.Alarms[:min(len(r.Alarms), MaxAlarms)] {
		alarms = append(alarms, OneLine(a, MaxAlarmBytes))
	}
	r.Alarms = alarms
	if err := r.Validate(); err != nil {
		return Signed{}, Record{}, fmt.Errorf("sign the status record of %s: %w", r.Node.Short(), err)
	}
	data, err := encode(r)
	if err == nil && len(data) > MaxRecordBytes {
		r = r.shortened()
		data, err = encode(r)
	}
	if err != nil {
		return Signed{}, Record{}, fmt.Errorf("sign the status record of %s: %w", r.Node.Short(), err)
	}
	if len(data) > MaxRecordBytes {
		return Signed{}, Record{}, fmt.Errorf("sign the status record of %s: %w: %d bytes, the most is %d: use fewer labels or services", r.Node.Short(), ErrTooLong, len(data), MaxRecordBytes)
	}
	return seal(key, data), r, nil
}

func encode(r Record) ([]byte, error) {
	data, err := json.Marshal(wire{RecordFormat, r})
	if err != nil {
		return nil, err
	}
	return canonical(data)
}

// shortened is the record with few words for people, where all of them together would be too
// long: what others decide by is to be published all the same.
func (r Record) shortened() Record {
	r.Reason, r.Health.Reason = OneLine(r.Reason, MaxReasonBytes/shorter), OneLine(r.Health.Reason, MaxReasonBytes/shorter)
	r.Rehearsed.Reason = OneLine(r.Rehearsed.Reason, MaxReasonBytes/shorter)
	r.Alarms = slices.Clone(r.Alarms)
	for i, a := range r.Alarms {
		r.Alarms[i] = OneLine(a, MaxAlarmBytes/shorter)
	}
	r.Facts = maps.Clone(r.Facts)
	for _, name := range slices.Sorted(maps.Keys(r.Facts)) {
		f := r.Facts[name]
		f.Reason = OneLine(f.Reason, MaxFactBytes/shorter)
		r.Facts[name] = f
	}
	return r
}

func seal(key ed25519.PrivateKey, data []byte) Signed {
	s := Signed{record: string(data)}
	copy(s.signature[:], ed25519.Sign(key, message(s.record)))
	return s
}

func message(record string) []byte { return []byte(signedPrefix + record) }

// Open verifies a record from an untrusted source: that it is of its node, and
// within bounds. Errors are ErrTooLong, ErrMalformed, ErrTooNew, ErrSignature
// or ErrInvalid.
func Open(s Signed) (Record, error) {
	r, err := s.read()
	if err != nil {
		return Record{}, err
	}
	return r, s.verify(r)
}

// Number returns whose record s says that it is, and its number, without verifying
// anything: for records that have been. The error is ErrMalformed.
func (s Signed) Number() (node bundle.NodeID, seq uint64, err error) {
	var r struct {
		Node bundle.NodeID `json:"node"`
		Seq  uint64        `json:"seq"`
	}
	if err := json.Unmarshal([]byte(s.record), &r); err != nil {
		return bundle.NodeID{}, 0, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return r.Node, r.Seq, nil
}

// read decodes the record, unverified.
func (s Signed) read() (Record, error) {
	if len(s.record) > MaxRecordBytes {
		return Record{}, fmt.Errorf("%w: %d bytes, the most is %d", ErrTooLong, len(s.record), MaxRecordBytes)
	}
	data := []byte(s.record)
	again, err := canonical(data)
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if !bytes.Equal(again, data) {
		return Record{}, fmt.Errorf("%w: it is not in canonical form: only moult writes records", ErrMalformed)
	}
	// The format comes first, alone: of a newer one nothing else can be said.
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if head.Format > RecordFormat {
		return Record{}, fmt.Errorf("%w: it is of format %d and this one reads format %d: upgrade moult on this node", ErrTooNew, head.Format, RecordFormat)
	}
	if head.Format != RecordFormat {
		return Record{}, fmt.Errorf("%w: format %d, want %d", ErrMalformed, head.Format, RecordFormat)
	}
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return w.Record, nil
}

// verify checks that r, which was read from s, is its node's own word.
func (s Signed) verify(r Record) error {
	if len(r.Key) != ed25519.PublicKeySize || r.Node != bundle.NodeIDOf(r.Key) {
		return fmt.Errorf("%w: node %s is not the digest of the key in it", ErrSignature, r.Node.Short())
	}
	if !ed25519.Verify(r.Key, message(s.record), s.signature[:]) {
		return fmt.Errorf("%w: the signature of node %s (%.40q) does not fit", ErrSignature, r.Node.Short(), r.Name)
	}
	if err := r.Validate(); err != nil {
		return fmt.Errorf("status record %d of node %s: %w", r.Seq, r.Node.Short(), err)
	}
	return nil
}

// Sum identifies the record together with its signature.
func (s Signed) Sum() bundle.Digest {
	h := sha256.New()
	h.Write(s.signature[:])
	io.WriteString(h, s.record)
	return bundle.Digest(h.Sum(nil))
}

// Size is the length of the binary form, in bytes.
func (s Signed) Size() int { return len(s.signature) + len(s.record) }

// Marshal returns the binary form: the signature's 64 bytes, then the record.
func (s Signed) Marshal() ([]byte, error) {
	return append(append(make([]byte, 0, s.Size()), s.signature[:]...), s.record...), nil
}

// ParseSigned reads what Marshal wrote. It verifies nothing but the bounds;
// Open does. It keeps no reference to data.
func ParseSigned(data []byte) (Signed, error) {
	var s Signed
	if len(data) < len(s.signature) {
		return Signed{}, fmt.Errorf("%w: %d bytes, shorter than its signature", ErrMalformed, len(data))
	}
	return s, s.set(data[:len(s.signature)], string(data[len(s.signature):]))
}

// signedJSON is the JSON form. The record is a string in it, not an object, so
// that no encoder on the way can change the signed bytes.
type signedJSON struct {
	Record    string `json:"record"`
	Signature []byte `json:"signature"`
}

// MarshalJSON implements json.Marshaler.
func (s Signed) MarshalJSON() ([]byte, error) {
	return json.Marshal(signedJSON{s.record, s.signature[:]})
}

// UnmarshalJSON implements json.Unmarshaler. It verifies nothing but the
// bounds; Open does.
func (s *Signed) UnmarshalJSON(data []byte) error {
	var j signedJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(j.Signature) != len(s.signature) {
		return fmt.Errorf("%w: a signature of %d bytes, want %d", ErrMalformed, len(j.Signature), len(s.signature))
	}
	return s.set(j.Signature, j.Record)
}

func (s *Signed) set(signature []byte, record string) error {
	if len(record) > MaxRecordBytes {
		return fmt.Errorf("%w: %d bytes, the most is %d", ErrTooLong, len(record), MaxRecordBytes)
	}
	if !utf8.ValidString(record) {
		return fmt.Errorf("%w: it is not UTF-8", ErrMalformed) // JSON could not carry it on
	}
	copy(s.signature[:], signature)
	s.record = record
	return nil
}

// canonical returns the one form of a JSON object: keys sorted at every level
// and none twice, no spaces, one way to escape.
func canonical(data []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var object map[string]any
	if err := dec.Decode(&object); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more data after its end")
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(object); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

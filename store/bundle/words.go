package bundle

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Digest is the SHA-256 of some bytes. Its text form is "sha256:" and 64
// lower-case hexadecimal digits. The zero Digest means "none" and prints as
// the empty string.
type Digest [sha256.Size]byte

const digestPrefix = "sha256:"

// Sum returns the Digest of data.
func Sum(data []byte) Digest { return sha256.Sum256(data) }

// ParseDigest reads the text form.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if err := d.UnmarshalText([]byte(s)); err != nil {
		return Digest{}, err
	}
	return d, nil
}

// IsZero reports whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// Hex returns the 64 hexadecimal digits alone.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return digestPrefix + d.Hex()
}

// Short returns the first twelve hexadecimal digits, for people.
func (d Digest) Short() string { return d.Hex()[:12] }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. Empty text is the zero Digest.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = Digest{}
		return nil
	}
	s, ok := strings.CutPrefix(string(text), digestPrefix)
	if !ok || !lowerHex(s, len(d)) {
		return fmt.Errorf("digest %.80q: want %q and %d lower-case hexadecimal digits", text, digestPrefix, 2*len(d))
	}
	_, err := hex.Decode(d[:], []byte(s))
	return err
}

// Version is the system version: 1, 2, 3, … one number for the whole system.
// 0 means "none".
type Version uint64

// Class is the kind of software that a node runs, such as "kv".
type Class string

// NodeID identifies a node: the SHA-256 of its ed25519 public key. Its text
// form is 64 lower-case hexadecimal digits.
type NodeID [sha256.Size]byte

// NodeIDOf returns the identity that belongs to a public key.
func NodeIDOf(key ed25519.PublicKey) NodeID { return sha256.Sum256(key) }

// ParseNodeID reads the text form.
func ParseNodeID(s string) (NodeID, error) {
	var id NodeID
	if err := id.UnmarshalText([]byte(s)); err != nil {
		return NodeID{}, err
	}
	return id, nil
}

func (id NodeID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first twelve hexadecimal digits, for people.
func (id NodeID) Short() string { return id.String()[:12] }

// IsZero reports whether id names nobody.
func (id NodeID) IsZero() bool { return id == NodeID{} }

// MarshalText implements encoding.TextMarshaler.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *NodeID) UnmarshalText(text []byte) error {
	if !lowerHex(string(text), len(id)) {
		return fmt.Errorf("node ID %.80q: want %d lower-case hexadecimal digits", text, 2*len(id))
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// lowerHex reports whether s is n bytes in lower-case hexadecimal: one text
// for one value, so that texts can be compared and signed.
func lowerHex(s string, n int) bool {
	return len(s) == 2*n && strings.Trim(s, "0123456789abcdef") == ""
}

// Platform is an operating system and an architecture, in Go's names.
type Platform struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
}

func (p Platform) String() string { return p.OS + "/" + p.Arch }

// Duration is a time.Duration whose JSON form is Go's text ("1m30s").
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

package membership

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"moult/gossip/view"
	"moult/store/bundle"
)

// enrolPrefix keeps an enrolment from being a signature over anything else.
const enrolPrefix = "enrolment of a moult node v1\n"

// secretPrefix begins the text of a join token, so that people and scanners of secrets
// know one.
const secretPrefix = "moult-join-"

// Secret is the private half of a join token: whoever has it may enrol nodes.
type Secret struct{ key ed25519.PrivateKey }

// NewSecret makes a join token.
func NewSecret() (Secret, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Secret{}, fmt.Errorf("make a join token: %w", err)
	}
	return Secret{key}, nil
}

// String is the token's text, one line: moult-join- and 32 bytes in base64.
func (s Secret) String() string {
	return secretPrefix + base64.RawURLEncoding.EncodeToString(s.key.Seed())
}

// ParseSecret reads what String wrote, with space around it.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	seed, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil || len(seed) != ed25519.SeedSize {
		return Secret{}, fmt.Errorf("not a join token: want %s and %d bytes in base64, as `moult member token` writes them", secretPrefix, ed25519.SeedSize)
	}
	return Secret{ed25519.NewKeyFromSeed(seed)}, nil
}

// Token is the public half, for the membership.
func (s Secret) Token(class bundle.Class) Token {
	return Token{Key: s.key.Public().(ed25519.PublicKey), Class: class}
}

// Enrol signs that a node of a class belongs to the cluster.
func (s Secret) Enrol(id bundle.NodeID, class bundle.Class) view.Enrolment {
	return view.Enrolment{Token: s.key.Public().(ed25519.PublicKey), Signature: ed25519.Sign(s.key, enrolment(id, class))}
}

func enrolment(id bundle.NodeID, class bundle.Class) []byte {
	return append(append([]byte(enrolPrefix), id[:]...), class...)
}

// ID is what a token is called: the beginning of its public key.
func (t Token) ID() string { return hex.EncodeToString(t.Key[:min(6, len(t.Key))]) }

// tokenOf returns the token in force that has enrolled the node of a record; nil for none.
func (m *Membership) tokenOf(r view.Record) *Token {
	i, ok := m.findToken(r.Enrolment.Token)
	if !ok {
		return nil
	}
	t := &m.Tokens[i]
	if t.Class != "" && t.Class != r.Class || !ed25519.Verify(t.Key, enrolment(r.Node, r.Class), r.Enrolment.Signature) {
		return nil
	}
	return t
}

func (m *Membership) findToken(key ed25519.PublicKey) (int, bool) {
	return slices.BinarySearchFunc(m.Tokens, key, func(t Token, key ed25519.PublicKey) int { return bytes.Compare(t.Key, key) })
}

// Allow returns m with a join token in force.
func (m *Membership) Allow(t Token) *Membership {
	next := m.clone()
	next.Tokens = put(next.Tokens, t, func(a, b Token) int { return bytes.Compare(a.Key, b.Key) })
	return next
}

// Revoke returns m without the token of that ID, or beginning of one, and who of known
// the token alone has enrolled: they count no more, unless they are enrolled by name.
func (m *Membership) Revoke(id string, known []view.Record) (next *Membership, lost []view.Record, err error) {
	next = m.clone()
	var found []Token
	for _, t := range next.Tokens {
		if id != "" && strings.HasPrefix(hex.EncodeToString(t.Key), strings.ToLower(id)) {
			found = append(found, t)
		}
	}
	if len(found) != 1 {
		return nil, nil, fmt.Errorf("%q is the beginning of %d tokens' IDs, want one", id, len(found))
	}
	next.Tokens = slices.DeleteFunc(next.Tokens, func(t Token) bool { return bytes.Equal(t.Key, found[0].Key) })
	for _, r := range known {
		if m.Counts(r) && !next.Counts(r) {
			lost = append(lost, r)
		}
	}
	return next, lost, nil
}

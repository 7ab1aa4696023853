package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
)

// operatorRole is the delegated role that signs rollout orders.
const operatorRole = "operator"

// Paths of the two kinds of document.
const (
	releasePrefix = "releases/"
	orderPrefix   = "rollouts/"
	orderPattern  = "rollouts/*"
	// membersPrefix begins the path of the document of who belongs to the cluster, which
	// goes on with its serial. It lies where the operator may sign.
	membersPrefix = orderPrefix + "members."
)

// decode reads one metadata file from an untrusted source and checks all that
// can be checked without a key. go-tuf reads on behind these checks: it lets
// JSON through that decodes to nil pointers and wrong key lengths, on which it
// would panic, and it checks signatures over its own encoding, so that one
// signed file could have many forms of bytes. Here it has one.
func decode[T metadata.Roles](name string, data []byte) (*metadata.Metadata[T], error) {
	if err := scan(data); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	m, err := new(metadata.Metadata[T]).FromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	if err := checkForm(m, data); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	return m, nil
}

func checkForm[T metadata.Roles](m *metadata.Metadata[T], data []byte) error {
	// Fields that this code does not know are carried where a signature covers
	// them, as TUF asks; elsewhere anybody could add them.
	if len(m.UnrecognizedFields) > 0 {
		return errors.New("fields beside signed and signatures")
	}
	if len(m.Signatures) > 2*MaxKeys {
		return fmt.Errorf("%d signatures, the most is %d", len(m.Signatures), 2*MaxKeys)
	}
	for i, s := range m.Signatures {
		if len(s.UnrecognizedFields) > 0 || len(s.Signature) != ed25519.SignatureSize {
			return fmt.Errorf("signature %d is not ed25519's", i)
		}
		if i > 0 && m.Signatures[i-1].KeyID >= s.KeyID {
			return errors.New("signatures are not sorted by key")
		}
	}
	version, spec, _ := header(m)
	if version < 1 || version > MaxMetadataVersion {
		return fmt.Errorf("version %d, want 1 to %d", version, int64(MaxMetadataVersion))
	}
	if !strings.HasPrefix(spec, "1.") {
		return fmt.Errorf("TUF specification %.20q, this moult knows 1.x: upgrade moult", spec)
	}
	again, err := m.ToBytes(false)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return errors.New("not in the form that moult writes")
	}
	return nil
}

// header returns what every role file has.
func header[T metadata.Roles](m *metadata.Metadata[T]) (version int64, spec string, expires time.Time) {
	switch s := any(&m.Signed).(type) {
	case *metadata.RootType:
		return s.Version, s.SpecVersion, s.Expires
	case *metadata.TimestampType:
		return s.Version, s.SpecVersion, s.Expires
	case *metadata.SnapshotType:
		return s.Version, s.SpecVersion, s.Expires
	case *metadata.TargetsType:
		return s.Version, s.SpecVersion, s.Expires
	}
	panic("unreachable: metadata.Roles has no other type")
}

// scan refuses JSON that two readers could understand differently (duplicate
// names, fractions, big integers), and null, which go-tuf does not expect.
func scan(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := scanValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more data after its end")
	}
	return nil
}

func scanValue(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested more than %d deep", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	switch tok := tok.(type) {
	case nil:
		return errors.New("null")
	case json.Number:
		n, err := strconv.ParseInt(tok.String(), 10, 64)
		if err != nil || n < -maxInteger || n > maxInteger || strconv.FormatInt(n, 10) != tok.String() {
			return fmt.Errorf("%.40s is no integer of at most %d", tok, int64(maxInteger))
		}
	case json.Delim:
		return scanInside(dec, tok, depth)
	}
	return nil
}

// scanInside reads the rest of an array or object, with its closing bracket.
func scanInside(dec *json.Decoder, open json.Delim, depth int) error {
	names := map[string]bool{}
	for dec.More() {
		if open == '{' {
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			name, _ := tok.(string)
			if names[name] {
				return fmt.Errorf("%.80q twice in one object", name)
			}
			names[name] = true
		}
		if err := scanValue(dec, depth+1); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// checkKeys checks keys of a root or of a delegation. Only ed25519: one kind
// of key has one length, one signature and one encoding.
func checkKeys(keys map[string]*metadata.Key) error {
	if len(keys) < 1 || len(keys) > MaxKeys {
		return fmt.Errorf("%d keys, want 1 to %d", len(keys), MaxKeys)
	}
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		k := keys[id]
		raw, err := hex.DecodeString(k.Value.PublicKey)
		if k.Type != metadata.KeyTypeEd25519 || k.Scheme != metadata.KeySchemeEd25519 ||
			err != nil || len(raw) != ed25519.PublicKeySize || hex.EncodeToString(raw) != k.Value.PublicKey {
			return fmt.Errorf("key %.64s: not an ed25519 key", id)
		}
		if own, err := k.ID(); err != nil || own != id {
			return fmt.Errorf("key %.64s: its ID should be %s", id, own)
		}
	}
	return nil
}

// checkRole checks who may sign for a role.
func checkRole(role string, ids []string, threshold int, keys map[string]*metadata.Key) error {
	if threshold < 1 || threshold > len(ids) {
		return fmt.Errorf("role %s: threshold %d of %d keys", role, threshold, len(ids))
	}
	for i, id := range ids {
		if keys[id] == nil {
			return fmt.Errorf("role %s: no key %.64q", role, id)
		}
		if slices.Contains(ids[:i], id) {
			return fmt.Errorf("role %s: key %.64s twice", role, id)
		}
	}
	return nil
}

func decodeRoot(version int, data []byte) (*metadata.Metadata[metadata.RootType], error) {
	name := rootName(version)
	m, err := decode[metadata.RootType](name, data)
	if err != nil {
		return nil, err
	}
	if err := checkKeys(m.Signed.Keys); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	if len(m.Signed.Roles) != len(metadata.TOP_LEVEL_ROLE_NAMES) {
		return nil, fmt.Errorf("%w: %s: %d roles, want %d", ErrMalformed, name, len(m.Signed.Roles), len(metadata.TOP_LEVEL_ROLE_NAMES))
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		r := m.Signed.Roles[role]
		if r == nil {
			return nil, fmt.Errorf("%w: %s: no role %s", ErrMalformed, name, role)
		}
		if err := checkRole(role, r.KeyIDs, r.Threshold, m.Signed.Keys); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
		}
	}
	return m, nil
}

// checkPins checks that a timestamp or snapshot names exactly the given files,
// each by version, length and hash.
func checkPins(name string, meta map[string]*metadata.MetaFiles, want ...string) error {
	if len(meta) != len(want) {
		return fmt.Errorf("%w: %s: names %d files, want %s", ErrMalformed, name, len(meta), strings.Join(want, ", "))
	}
	for _, file := range want {
		pin := meta[file]
		if pin == nil {
			return fmt.Errorf("%w: %s: does not name %s", ErrMalformed, name, file)
		}
		if len(pin.Hashes) != 1 || len(pin.Hashes["sha256"]) != len(bundle.Digest{}) || pin.Length < 1 || pin.Version < 1 {
			return fmt.Errorf("%w: %s: %s needs a version, a length and a sha256", ErrMalformed, name, file)
		}
	}
	return nil
}

// checkDelegation checks that targets hands exactly rollouts/* to the operator.
func checkDelegation(t *metadata.TargetsType) error {
	d := t.Delegations
	if d == nil || d.SuccinctRoles != nil || len(d.Roles) != 1 || d.Roles[0].Name != operatorRole {
		return fmt.Errorf("%w: %s: want one delegation, to %s", ErrMalformed, targetsFile, operatorRole)
	}
	r := d.Roles[0]
	if len(r.PathHashPrefixes) > 0 || !slices.Equal(r.Paths, []string{orderPattern}) {
		return fmt.Errorf("%w: %s: %s may sign %q, want %q", ErrMalformed, targetsFile, operatorRole, r.Paths, orderPattern)
	}
	if err := checkKeys(d.Keys); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMalformed, targetsFile, err)
	}
	if err := checkRole(r.Name, r.KeyIDs, r.Threshold, d.Keys); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMalformed, targetsFile, err)
	}
	return nil
}

// documents reads the documents that a targets or operator file names.
func documents(file string, t *metadata.TargetsType, prefix string, most int64) (map[bundle.Version]Ref, error) {
	if len(t.Targets) > MaxReleases {
		return nil, fmt.Errorf("%w: %s: names %d documents, the most is %d", ErrMalformed, file, len(t.Targets), MaxReleases)
	}
	docs := make(map[bundle.Version]Ref, len(t.Targets))
	for path, f := range t.Targets {
		n, ok := parsePath(path, prefix)
		if _, members := parsePath(path, membersPrefix); members && prefix == orderPrefix {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("%w: %s: names %.80q, it may only name %sN.json", ErrMalformed, file, path, prefix)
		}
		ref, err := document(file, path, f, most)
		if err != nil {
			return nil, err
		}
		docs[n] = ref
	}
	return docs, nil
}

// membersOf reads the document of who belongs to the cluster that the operator's file names,
// which is one or none.
func membersOf(t *metadata.TargetsType) (found Members, err error) {
	for path, f := range t.Targets {
		serial, ok := parsePath(path, membersPrefix)
		if !ok {
			continue
		}
		if found.Serial != 0 {
			return Members{}, fmt.Errorf("%w: %s: names two documents of who belongs to the cluster", ErrMalformed, operatorFile)
		}
		ref, err := document(operatorFile, path, f, MaxMembersBytes)
		if err != nil {
			return Members{}, err
		}
		found = Members{Ref: ref, Serial: uint64(serial)}
	}
	return found, nil
}

// document reads what a file says of one document.
func document(file, path string, f *metadata.TargetFiles, most int64) (Ref, error) {
	sum := f.Hashes["sha256"]
	if len(f.Hashes) != 1 || len(sum) != len(bundle.Digest{}) || f.Length < 1 || f.Length > most {
		return Ref{}, fmt.Errorf("%w: %s: %s needs a sha256 and a length of at most %d", ErrMalformed, file, path, most)
	}
	return Ref{Digest: bundle.Digest(sum), Length: f.Length}, nil
}

// parsePath reads "releases/12.json". One number has one path.
func parsePath(path, prefix string) (bundle.Version, bool) {
	s, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, ".json"), 10, 64)
	v := bundle.Version(n)
	if err != nil || v < 1 || v > bundle.MaxVersion || documentPath(prefix, v) != path {
		return 0, false
	}
	return v, true
}

func documentPath(prefix string, n bundle.Version) string {
	return fmt.Sprintf("%s%d.json", prefix, n)
}

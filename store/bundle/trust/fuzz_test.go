package trust

import (
	"bytes"
	"errors"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// FuzzParseSet: what is accepted is the one encoding of itself.
func FuzzParseSet(f *testing.F) {
	c := newCluster(f)
	for _, s := range []Set{{Roots: [][]byte{c.first()}}, c.set()} {
		f.Add(c.must(s.Marshal()))
	}
	f.Add([]byte(`{"roots":["eA=="],"timestamp":"eA==","snapshot":"eA==","targets":"eA=="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSet(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		again, err := s.Marshal()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted, but encoded again it differs: %v", err)
		}
		if _, err := Verify(s.Roots[0], nil, s); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntrusted) {
			t.Fatalf("class of %v", err)
		}
	})
}

// FuzzVerify changes the files of a good set. Without a key, nothing but the
// very bytes that were signed may be accepted, and nothing may panic.
func FuzzVerify(f *testing.F) {
	c := newCluster(f)
	c.roots = append(c.roots, c.makeRoot(2, nil, c.root))
	good := c.set()
	f.Add(good.Roots[1], good.Timestamp, good.Snapshot, good.Targets, good.Operator)
	f.Add(good.Roots[0], good.Snapshot, good.Timestamp, good.Operator, good.Targets)
	f.Add([]byte(`{"signatures":[],"signed":{"_type":"root","keys":{"a":{}},"roles":{"root":{}},"version":2}}`),
		[]byte(`{"signatures":[],"signed":{"_type":"timestamp","meta":{"snapshot.json":{"version":1}}}}`),
		[]byte(`{"signed":{"_type":"snapshot","meta":{}},"signatures":[{"keyid":"a","sig":"00"}]}`),
		[]byte(`{"signed":{"_type":"targets","targets":{"releases/1.json":{"hashes":{"sha256":"00"}}}},"signatures":[]}`), []byte(nil))
	f.Fuzz(func(t *testing.T, root, timestamp, snapshot, targets, operator []byte) {
		s := Set{Roots: [][]byte{c.first(), root}, Timestamp: timestamp, Snapshot: snapshot, Targets: targets, Operator: operator}
		v, err := Verify(c.first(), nil, s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntrusted) {
				t.Fatalf("class of %v", err)
			}
		} else if !s.bare() && !bytes.Equal(timestamp, good.Timestamp) || !bytes.Equal(root, good.Roots[1]) {
			t.Fatalf("accepted as %s, and nobody signed it", v.Digest())
		}
		// The same bytes behind a root that is the fuzzer's own.
		if _, err := Verify(root, nil, Set{Roots: [][]byte{root}}); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntrusted) {
			t.Fatalf("class of %v", err)
		}
	})
}

// FuzzSigned signs what the fuzzer makes up with the right keys: a key holder's
// nonsense must not crash a peer either, and is refused by class.
func FuzzSigned(f *testing.F) {
	good := newCluster(f)
	s := good.set()
	for _, data := range [][]byte{s.Roots[0], s.Timestamp, s.Snapshot, s.Targets, s.Operator} {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := newCluster(t)
		if m, err := decode[metadata.RootType]("fuzz", data); err == nil {
			root, err := signFile(m, c.root)
			if err != nil {
				return
			}
			c.roots = append(c.roots, root)
		}
		if m, err := decode[metadata.TimestampType]("fuzz", data); err == nil {
			c.onTimestamp = func(s *metadata.TimestampType) { *s = m.Signed }
		}
		if m, err := decode[metadata.SnapshotType]("fuzz", data); err == nil {
			c.onSnapshot = func(s *metadata.SnapshotType) { *s = m.Signed }
		}
		if m, err := decode[metadata.TargetsType]("fuzz", data); err == nil {
			c.versions.Targets, c.versions.Operator = m.Signed.Version, m.Signed.Version
			c.onTargets = func(s *metadata.TargetsType) { *s = m.Signed }
			if m.Signed.Delegations == nil {
				c.onTargets, c.onOperator = nil, c.onTargets
			}
		}
		if _, err := Verify(c.first(), nil, c.set()); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntrusted) {
			t.Fatalf("class of %v", err)
		}
	})
}

package gossip

import (
	"bytes"
	"crypto/ed25519"
	"reflect"
	"testing"

	"moult/gossip/view"
	"moult/store/bundle"
)

func nodeID(b byte) bundle.NodeID { return bundle.NodeID{b} }

func entry(kind byte, size int) []byte { return appendEntry(nil, kind, make([]byte, size)) }

func TestRumourPacketRoundTrip(t *testing.T) {
	key := testKey(t)
	id := bundle.NodeIDOf(key.Public().(ed25519.PublicKey))
	short := sign(t, key, "n1", 7)
	long, err := view.Sign(key, testRecord(key, "n1", 8, string(bytes.Repeat([]byte("long "), 300))))
	if err != nil {
		t.Fatal(err)
	}
	set := newRumours(nodeID(9))
	for i, s := range []view.Signed{short, long} {
		e, err := entryOf(s, id, uint64(7+i))
		if err != nil {
			t.Fatal(err)
		}
		if !set.add(nodeID(byte(i)), uint64(7+i), e, 1) {
			t.Fatal("not told")
		}
	}
	set.add(nodeID(5), 1, entry(77, 10), 1) // of a later format
	packets := set.round(8)
	if len(packets) != 1 {
		t.Fatalf("%d packets", len(packets))
	}
	got, err := parseRumour(packets[0])
	want := rumourPacket{nodeID(9), []view.Signed{short}, []recordHint{{id, 8}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v\nwant %+v", got, err, want)
	}
	whole := 0 // cuts between entries leave a packet
	for n := range len(packets[0]) {
		if _, err := parseRumour(packets[0][:n]); err == nil {
			whole++
		}
	}
	if whole != 3 {
		t.Errorf("%d cuts were read as packets: want those before the 3 entries", whole)
	}
}

func TestRumourRounds(t *testing.T) {
	tell := func(s *rumours, rounds int) (told []int) {
		for range rounds {
			n := 0
			for _, p := range s.round(8) {
				n += len(p) - rumourHeader
			}
			told = append(told, n)
		}
		return told
	}
	e := entry(1, 100)
	s := newRumours(nodeID(9))
	s.add(nodeID(1), 1, e, 3)
	if got := tell(s, 5); !reflect.DeepEqual(got, []int{len(e), len(e), len(e), 0, 0}) {
		t.Errorf("a record for 3 rounds: %v", got)
	}
	s.add(nodeID(1), 1, e, 3)
	if s.add(nodeID(1), 1, e, 3) {
		t.Error("the same record was taken in twice")
	}
	tell(s, 2)
	if !s.add(nodeID(1), 2, e, 3) {
		t.Error("a newer record was not taken in")
	}
	if got := tell(s, 5); !reflect.DeepEqual(got, []int{len(e), len(e), len(e), 0, 0}) {
		t.Errorf("a newer record in the place of an older: %v", got)
	}
	s.add(nodeID(1), 2, e, 2)
	if s.add(nodeID(1), 1, e, 3) {
		t.Error("an older record took the place of a newer")
	}
	if got := tell(s, 3); !reflect.DeepEqual(got, []int{len(e), len(e), 0}) || len(s.byID) != 0 || len(s.queue) != 0 {
		t.Errorf("told %v, left over: %d records, %d in the queue", got, len(s.byID), len(s.queue))
	}
}

// Packets keep to their size, a round to its packets, and what did not fit
// comes first in the next round: every record is told its rounds.
func TestRumourBatches(t *testing.T) {
	const records, rounds = 50, 4
	s := newRumours(nodeID(9))
	for i := range records {
		s.add(nodeID(byte(i)), 1, appendEntry(nil, entryHint, append([]byte{byte(i)}, make([]byte, 299)...)), rounds)
	}
	told := map[byte]int{}
	for n := 0; len(s.queue) > 0; n++ {
		packets := s.round(3)
		if len(packets) > 3 || n > 2*records*rounds/(3*4) {
			t.Fatalf("round %d: %d packets", n, len(packets))
		}
		for _, p := range packets {
			if len(p) > maxRumourPacket {
				t.Errorf("a packet of %d bytes", len(p))
			}
			for rest := p[rumourHeader:]; len(rest) > 0; rest = rest[303:] {
				told[rest[3]]++
			}
		}
		if n == 4 && len(told) != records {
			t.Errorf("after five rounds only %d records have been told once", len(told))
		}
	}
	for i, n := range told {
		if n != rounds {
			t.Errorf("record %d was told %d times", i, n)
		}
	}
}

func TestRumoursAreBounded(t *testing.T) {
	s := newRumours(nodeID(9))
	for i := range maxRumours {
		s.add(bundle.NodeID{byte(i), byte(i >> 8)}, 1, nil, 1)
	}
	if s.add(bundle.NodeID{31: 1}, 1, nil, 1) {
		t.Error("no bound")
	}
	if !s.add(bundle.NodeID{}, 2, nil, 1) {
		t.Error("a newer record of a known node was refused")
	}
}

func FuzzParseRumour(f *testing.F) {
	_, key, err := ed25519.GenerateKey(bytes.NewReader(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	s, err := view.Sign(key, testRecord(key, "n1", 1, ""))
	if err != nil {
		f.Fatal(err)
	}
	e, err := entryOf(s, nodeID(1), 1)
	if err != nil {
		f.Fatal(err)
	}
	header := append([]byte{rumourMessage}, make([]byte, 32)...)
	f.Add(append(header, e...))
	f.Add(append(header, entry(entryHint, hintSize)...))
	f.Add(append(header, entryHint, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseRumour(b)
		if err != nil {
			return
		}
		if n := 66*len(p.Records) + 42*len(p.Hints); n > len(b) {
			t.Errorf("%d bytes gave %d records and %d hints", len(b), len(p.Records), len(p.Hints))
		}
	})
}

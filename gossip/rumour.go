package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"moult/gossip/view"
	"moult/store/bundle"
)

// rumourMessage is the first byte of a rumour packet. Serf's own message
// types count up from 0; its delegate never sees ours.
const rumourMessage byte = 0xF0

// Kinds of entries in a rumour packet. Append only; unknown kinds are skipped.
const (
	entryRecord byte = 1 // a view.Signed in its binary form
	entryHint   byte = 2 // 32 bytes node ID, 8 bytes sequence number, big-endian
)

const (
	rumourHeader = 1 + len(bundle.NodeID{})
	hintSize     = len(bundle.NodeID{}) + 8
)

// A hint says that a record exists which did not fit into a packet.
type recordHint struct {
	Node bundle.NodeID
	Seq  uint64
}

// A rumourPacket is what a peer told, unverified.
type rumourPacket struct {
	From    bundle.NodeID
	Records []view.Signed
	Hints   []recordHint
}

// entryOf encodes what is told of a record: the record itself if it fits into
// a packet, else a hint.
func entryOf(s view.Signed, node bundle.NodeID, seq uint64) ([]byte, error) {
	body, err := s.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding the record of node %s: %w", node.Short(), err)
	}
	if e := appendEntry(nil, entryRecord, body); rumourHeader+len(e) <= maxRumourPacket {
		return e, nil
	}
	hint := append(make([]byte, 0, hintSize), node[:]...)
	return appendEntry(nil, entryHint, binary.BigEndian.AppendUint64(hint, seq)), nil
}

func appendEntry(b []byte, kind byte, body []byte) []byte {
	b = append(b, kind)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

// parseRumour reads a packet. It does not verify anything.
func parseRumour(b []byte) (rumourPacket, error) {
	var p rumourPacket
	if len(b) < rumourHeader || b[0] != rumourMessage {
		return p, errors.New("rumour packet: too short or not a rumour")
	}
	copy(p.From[:], b[1:])
	for rest := b[rumourHeader:]; len(rest) > 0; {
		kind := rest[0]
		n, w := binary.Uvarint(rest[1:])
		if w <= 0 || n > uint64(len(rest)-1-w) {
			return p, errors.New("rumour packet: an entry runs past the end")
		}
		body := rest[1+w : 1+w+int(n)]
		rest = rest[1+w+int(n):]
		switch kind {
		case entryRecord:
			s, err := view.ParseSigned(body)
			if err != nil {
				return p, fmt.Errorf("rumour packet: %w", err)
			}
			p.Records = append(p.Records, s)
		case entryHint:
			if len(body) != hintSize {
				return p, fmt.Errorf("rumour packet: a hint has %d bytes: want %d", len(body), hintSize)
			}
			p.Hints = append(p.Hints, recordHint{bundle.NodeID(body[:32]), binary.BigEndian.Uint64(body[32:])})
		}
	}
	return p, nil
}

// rumours is the set of records being told, in the order in which they
// became news. It is pure: no clock, no network; one goroutine owns it.
type rumours struct {
	from  bundle.NodeID
	byID  map[bundle.NodeID]*rumour
	queue []*rumour // first told first; may hold superseded ones
}

type rumour struct {
	node  bundle.NodeID
	seq   uint64
	entry []byte
	left  int // rounds yet to be told; 0: over or superseded
}

func newRumours(from bundle.NodeID) *rumours {
	return &rumours{from: from, byID: map[bundle.NodeID]*rumour{}}
}

// add starts to tell a record for some rounds. A newer record of a node takes
// the place of an older one; an older or equal one changes nothing. It
// reports whether the record will be told.
func (r *rumours) add(node bundle.NodeID, seq uint64, entry []byte, rounds int) bool {
	if old := r.byID[node]; old != nil {
		if seq <= old.seq {
			return false
		}
		old.left = 0
	} else if len(r.byID) >= maxRumours {
		return false
	}
	n := &rumour{node: node, seq: seq, entry: entry, left: rounds}
	r.byID[node] = n
	r.queue = append(r.queue, n)
	return true
}

// round returns the packets of one round, to be sent to each chosen peer, and
// counts the round for what is in them. What does not fit comes first in the
// next round.
func (r *rumours) round(maxPackets int) [][]byte {
	var packets [][]byte
	var waiting, told []*rumour
	for _, n := range r.queue {
		if n.left == 0 {
			continue
		}
		last := len(packets) - 1
		if last < 0 || len(packets[last])+len(n.entry) > maxRumourPacket {
			if len(packets) == maxPackets {
				waiting = append(waiting, n)
				continue
			}
			packets = append(packets, append([]byte{rumourMessage}, r.from[:]...))
			last++
		}
		packets[last] = append(packets[last], n.entry...)
		if n.left--; n.left > 0 {
			told = append(told, n)
		} else {
			delete(r.byID, n.node)
		}
	}
	r.queue = append(waiting, told...)
	return packets
}

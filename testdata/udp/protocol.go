package udpkv

import "strings"

const (
	oldest, newest = 1, 3
	// maxDatagram is more than any call or answer has, in bytes.
	maxDatagram = 8 << 10
)

// words are those of one version.
type words struct{ get, value, none, set, done string }

func wordsOf(version int) words {
	if version < 3 {
		return words{"get", "value", "none", "set", "done"}
	}
	return words{"read", "is", "nothing", "write", "written"}
}

// message is a datagram taken apart.
type message struct{ id, word, rest string }

func parse(datagram []byte) message {
	var m message
	m.id, m.rest, _ = strings.Cut(string(datagram), " ")
	m.word, m.rest, _ = strings.Cut(m.rest, " ")
	return m
}

func (m message) bytes() []byte {
	text := m.id + " " + m.word
	if m.rest != "" {
		text += " " + m.rest
	}
	return []byte(text)
}

// failure is the answer to a call that cannot be carried out.
func (m message) failure(reason string) message { return message{m.id, "error", reason} }

// translate puts a message from the words of one version into those of another;
// false where that has no such word.
func translate(m message, from, to words) (message, bool) {
	switch m.word {
	case from.get:
		m.word = to.get
	case from.value:
		m.word = to.value
	case from.none:
		m.word = to.none
	case from.set:
		m.word = to.set
	case from.done:
		m.word = to.done
	case "error":
	default:
		return m, false
	}
	return m, true
}

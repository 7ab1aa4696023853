package egress

import (
	"bytes"
	"io"
	"testing"

	"moult/simlayer/stream"
)

// hello is the greeting of a caller without authentication, and the beginning of
// a request for CONNECT.
const hello = "\x05\x01\x00\x05\x01\x00"

func socksName(host string, port int) string {
	return string(append(append([]byte{socksDomain, byte(len(host))}, host...), byte(port>>8), byte(port)))
}

func FuzzSOCKS(f *testing.F) {
	for _, seed := range []string{hello + socksName("peer", 7000), hello + socksName("[peer", 7000), hello + "\x01\x7f\x00\x00\x01\x00\x50", hello + "\x04", "\x05\xff", "\x04\x01",
		"\x05\x01\x02\x01\x05moult\x04word\x05\x01\x00" + socksName("peer", 7000), "\x05\x02\x00\x02\x01\x00\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		var out bytes.Buffer
		rw := struct {
			io.Reader
			io.Writer
		}{in, &out}
		if dest, err := readSOCKS(rw, nil); err == nil {
			if _, _, err := stream.SplitAddr(dest); err != nil {
				t.Errorf("destination %q: %v", dest, err)
			}
			if out.String() != "\x05\x00" {
				t.Errorf("answered %q", out.Bytes())
			}
		}
		in.Reset(data)
		out.Reset()
		var shown []string
		dest, err := readSOCKS(rw, func(user, password string) bool {
			shown = append(shown, user, password)
			return password == "word"
		})
		if err == nil && (len(shown) != 2 || shown[1] != "word" || out.String() != "\x05\x02\x01\x00") {
			t.Errorf("%q was let in with %q, and answered %q", dest, shown, out.Bytes())
		}
	})
}

package control

import (
	"bytes"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"moult/store/bundle"
)

// What changes something is noted, with who called, and what only asks is not.
func TestNoted(t *testing.T) {
	dir, err := os.MkdirTemp("", "moult-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket, err := ListenUnix(filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deeds := make(chan Deed, 16)
	note := func(d Deed) { deeds <- d }
	b := &scripted{}
	for _, c := range []struct {
		l     net.Listener
		where string
		local bool
	}{{socket, dir, true}, {tcp, "http://" + tcp.Addr().String(), false}} {
		s := ServeNoted(c.l, b, "", note, slog.New(slog.DiscardHandler))
		api := NewClient(c.where)
		b.err = nil
		if _, err := api.Status(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		accepted, err := api.Inject(t.Context(), bytes.NewReader([]byte("bundle")), nil)
		if err != nil {
			t.Fatal(err)
		}
		pause := Signed{
			Set:     []byte(`{"roots":["",""],"timestamp":"` + base64.StdEncoding.EncodeToString([]byte(`{"signed":{"version":14}}`)) + `"}`),
			Orders:  map[bundle.Version][]byte{1: []byte(`{"release":1,"serial":7,"state":"paused","turn":1,"classes":{"kv":{"skipped":[0]}}}`)},
			Members: []byte(`{"members":[{},{}],"evicted":["x"]}`),
		}
		if _, err := api.Accept(t.Context(), pause); err != nil {
			t.Fatal(err)
		}
		if _, err := api.Accept(t.Context(), Signed{Set: pause.Set}); err != nil {
			t.Fatal(err)
		}
		if _, err := api.Join(t.Context(), slices.Repeat([]string{strings.Repeat("x", 2*maxWhatText)}, 2*maxWhat)); err != nil {
			t.Fatal(err)
		}
		b.err = Refused(errors.New("no such thing"), "")
		if err := api.Leave(t.Context()); err == nil {
			t.Fatal("it is not refused")
		}
		api.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		close(deeds)
		var got []Deed
		for d := range deeds {
			got = append(got, d)
			switch knows := runtime.GOOS == "linux" || runtime.GOOS == "darwin"; {
			case d.Time.IsZero():
				t.Errorf("%+v says no time", d)
			case c.local && (d.By != "socket" || knows && (d.UID == nil || *d.UID != os.Getuid())):
				t.Errorf("by the socket: %+v", d)
			case !c.local && (!strings.HasPrefix(d.By, "127.0.0.1:") || d.UID != nil):
				t.Errorf("by TCP: %+v", d)
			}
		}
		if len(got) != 5 || got[0].Call != "inject" || got[1].Call != "trust" || got[2].Call != "trust" || got[3].Call != "join" || got[4].Call != "leave" {
			t.Fatalf("noted %+v", got)
		}
		if d := got[0]; d.Release != accepted.Version || d.Digest != accepted.Digest || d.Release == bundle.Version(0) || d.Error != "" {
			t.Errorf("of %+v is noted %+v", accepted, d)
		}
		want := []string{"metadata 14, root 2", "order of release 1: paused, turn 1, serial 7, 1 skipped", "members: 2 enrolled, 1 evicted"}
		if d := got[1]; !slices.Equal(d.What, want) || d.Release != 1 {
			t.Errorf("of an order is noted %+v", d)
		}
		if d := got[2]; !slices.Equal(d.What, want[:1]) || d.Release != 0 {
			t.Errorf("of a refresh is noted %+v", d)
		}
		if d := got[3]; len(d.What) != maxWhat+1 || len(d.What[0]) > maxWhatText+3 {
			t.Errorf("of a join are noted %d lines, the first of %d bytes", len(d.What), len(d.What[0]))
		}
		if !strings.Contains(got[4].Error, "no such thing") {
			t.Errorf("what was refused: %+v", got[4])
		}
		deeds = make(chan Deed, 16)
	}
}

package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/fleet"
)

// long is a series of many points, with one moment in which 77 are down.
func long(n int) (s *Series) {
	s = &Series{}
	for i := range n {
		p := fleet.Sample{At: time.Duration(i) * 37 * time.Millisecond, Down: 10 + i%3, Settled: i}
		if i == 0 {
			p.Down = 0
		}
		if i == n/3 {
			p.Down = 77
		}
		s.Note(p)
	}
	return s
}

// TestSeries: however many points there are, few are kept, and none of the extremes is lost.
func TestSeries(t *testing.T) {
	for _, n := range []int{1, 2, 100, 5_000, 1_000_000} {
		all := long(n).points()
		if len(all) > 3*maxSpans || n > maxSpans && len(all) < maxSpans/2 {
			t.Errorf("of %d points %d are kept", n, len(all))
		}
		most := 0
		for i, p := range all {
			most = max(most, p.Down)
			if i > 0 && (p.At < all[i-1].At || p.Settled < all[i-1].Settled) {
				t.Errorf("of %d, %+v comes after %+v", n, p, all[i-1])
			}
		}
		if first, last := all[0], all[len(all)-1]; first.At != 0 || last.Settled != n-1 || n > 2 && (first.Down != 0 || most != 77) {
			t.Errorf("of %d points %+v to %+v are kept, and %d down at most", n, first, last, most)
		}
	}
	// A time without news, of a window, say, takes no room and hides nothing.
	s := &Series{}
	s.Note(fleet.Sample{})
	s.Note(fleet.Sample{At: 1000 * time.Hour, Down: 1})
	s.Note(fleet.Sample{At: 1000 * time.Hour, Down: 0, Settled: 1})
	if all := s.points(); len(all) != 3 || all[1].Down != 1 {
		t.Errorf("kept is %+v", all)
	}
}

// TestWrite: both forms are whole, the same each time, of the stated size, and small; the
// title is text and not markup.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []int{1, 1_000_000} {
		for _, name := range []string{"a.svg", "b.png"} {
			var files [2][]byte
			for i := range files {
				path := filepath.Join(dir, name)
				if err := Write(path, "<b>&"+strings.Repeat("ü", 200), max(n, 77), long(n)); err != nil {
					t.Fatal(err)
				}
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				files[i] = data
			}
			if !bytes.Equal(files[0], files[1]) || len(files[0]) > 100_000 {
				t.Errorf("%s of %d points: %d and %d bytes, want the same, and at most 100,000", name, n, len(files[0]), len(files[1]))
			}
			if name == "b.png" {
				if c, err := png.DecodeConfig(bytes.NewReader(files[0])); err != nil || c.Width != 800 || c.Height != 400 {
					t.Errorf("it is %d × %d (%v)", c.Width, c.Height, err)
				}
				continue
			}
			words := texts(t, files[0])
			for _, want := range []string{"<b>&ü", "…", "share of nodes (%)", "nodes down", "time since the order (", "serve", "settled", "down"} {
				if !strings.Contains(words, want) {
					t.Errorf("it lacks %q: %s", want, words)
				}
			}
			for _, colour := range []string{"#0072B2", "#009E73", "#D55E00"} {
				if !bytes.Contains(files[0], []byte(colour)) {
					t.Errorf("no line is %s", colour)
				}
			}
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("there are %v (%v), want two pictures", left, err)
	}
}

// texts are the texts of an SVG, which must be XML.
func texts(t *testing.T, data []byte) (all string) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(data)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok && strings.TrimSpace(string(text)) != "" {
			all += string(text) + "\n"
		}
	}
}

// TestRefuses: what cannot be written is said before and after, and what was there stays.
func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "old.svg")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.svg"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a.jpg", "svg", "none/a.svg", "old.svg/a.svg", "folder.svg"} {
		path := filepath.Join(dir, name)
		if Check(path) == nil || Write(path, "", 1, long(3)) == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := Check(old); err != nil {
		t.Error(err)
	}
	if err := Write(old, "", 1, &Series{}); err == nil {
		t.Error("a picture of nothing is drawn")
	}
	data, err := os.ReadFile(old)
	if left, _ := os.ReadDir(dir); err != nil || string(data) != "old" || len(left) != 2 {
		t.Errorf("left are %v, and what was there is %q (%v)", left, data, err)
	}
}

func TestTicks(t *testing.T) {
	for most, want := range map[float64]string{0.4: "0", 1: "0 1", 8.9: "0 1 2 3 4 5 6 7 8", 9: "0 2 4 6 8", 100: "0 20 40 60 80 100", 236: "0 50 100 150 200", 1000: "0 200 400 600 800 1000"} {
		var got []string
		for _, tick := range wholeTicks(0, most) {
			got = append(got, tick.Label)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("up to %v: %v, want %s", most, got, want)
		}
	}
}

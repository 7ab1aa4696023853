package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// vector is one file of testdata/manifest: "expect:" names the class that
// ParseManifest must refuse it with, or "ok"; "message:" is a part of the error,
// or the digest of a good manifest; an empty line; the bytes; a newline.
//
// The good ones are frozen: releases of format 1 have been signed, so these
// bytes must stay good, and keep their digest, for ever.
type vector struct {
	name, expect, message string
	data                  []byte
}

var classes = map[string]error{"too-new": ErrTooNew, "malformed": ErrMalformed, "not-canonical": ErrNotCanonical, "invalid": ErrInvalid}

func vectors(t testing.TB) []vector {
	t.Helper()
	paths, err := filepath.Glob("testdata/manifest/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	var vs []vector
	for _, path := range paths {
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		head, body, _ := bytes.Cut(file, []byte("\n\n"))
		v := vector{name: filepath.Base(path), data: bytes.TrimSuffix(body, []byte("\n"))}
		for line := range strings.SplitSeq(string(head), "\n") {
			if s, ok := strings.CutPrefix(line, "expect: "); ok {
				v.expect = s
			} else if s, ok := strings.CutPrefix(line, "message: "); ok {
				v.message = s
			} else {
				t.Fatalf("%s: line %q", path, line)
			}
		}
		vs = append(vs, v)
	}
	return vs
}

func TestParseManifestVectors(t *testing.T) {
	seen := map[string]int{}
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			seen[v.expect]++
			m, err := ParseManifest(v.data)
			if v.expect == "ok" {
				checkGood(t, v, m, err)
				return
			}
			for class, sentinel := range classes {
				if errors.Is(err, sentinel) != (class == v.expect) {
					t.Errorf("error %v: is it %s?", err, class)
				}
			}
			if err != nil && !strings.Contains(err.Error(), v.message) {
				t.Errorf("error %v, want %q in it", err, v.message)
			}
		})
	}
	for class := range classes {
		if seen[class] == 0 {
			t.Errorf("no vector of class %s", class)
		}
	}
}

func checkGood(t *testing.T, v vector, m *Manifest, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	again, err := MarshalManifest(m)
	if err != nil || !bytes.Equal(again, v.data) {
		t.Errorf("written again it differs: %v\n%s", err, again)
	}
	if got := Sum(again).String(); got != v.message {
		t.Errorf("digest %s, want %s", got, v.message)
	}
}

// good returns a manifest to change.
func good(t testing.TB) *Manifest {
	t.Helper()
	for _, v := range vectors(t) {
		if v.name == "ok-full.txt" {
			m, err := ParseManifest(v.data)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
	t.Fatal("no ok-full.txt")
	return nil
}

func TestMarshalManifestLeavesItsArgument(t *testing.T) {
	m, want := good(t), good(t)
	for _, x := range []*Manifest{m, want} {
		c := x.Classes["kv"]
		c.Command, c.Health, c.Services = []string{"./kv"}, Health{Notify: true, Interval: Duration(time.Second), HealthyDeadline: 1}, nil
		x.Classes["kv"] = c
	}
	data, err := MarshalManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m, want) {
		t.Error("the manifest has changed")
	}
	if _, err := ParseManifest(data); err != nil {
		t.Errorf("nil services do not come back: %v", err)
	}
}

func TestMarshalManifestValidates(t *testing.T) {
	m := good(t)
	m.Version = 1
	if _, err := MarshalManifest(m); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "classes.kv.from: 1, want 0") {
		t.Errorf("got %v", err)
	}
}

// TestValidateReportsAll: whoever writes a release wants all faults at once,
// and whoever receives a hostile one a bounded message.
func TestValidateReportsAll(t *testing.T) {
	m := good(t)
	c := m.Classes["kv"]
	c.Health.Interval, c.Schedule.Canary, c.Past.Kind = 0, -1, "magic"
	m.Classes["kv"] = c
	err := m.Validate()
	for _, path := range []string{"classes.kv.health.interval: ", "classes.kv.schedule.canary: ", "classes.kv.past.kind: "} {
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q is not in %v", path, err)
		}
	}
	a := &c.Artifacts[1]
	a.Chunks = make([]Chunk, MaxChunks)
	for i := range 1000 {
		m.Classes[Class(fmt.Sprint(strings.Repeat("X", 1000), i))] = c
	}
	if err := m.Validate(); err == nil || len(err.Error()) > 10_000 {
		t.Errorf("a message of %d bytes", len(err.Error()))
	}
}

func TestManifestBounds(t *testing.T) {
	if _, err := ParseManifest(make([]byte, MaxManifestBytes+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too many bytes: %v", err)
	}
	m := good(t)
	m.Classes = map[Class]ClassUpgrade{}
	for i := range MaxClasses + 1 {
		m.Classes[Class(fmt.Sprintf("c%d", i))] = good(t).Classes["kv"]
	}
	if err := m.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "classes: 65 of them") {
		t.Errorf("too many classes: %v", err)
	}
	// Valid field by field, and too long together.
	m = good(t)
	c := m.Classes["kv"]
	c.Artifacts = nil
	for arch := range 3 {
		a := Artifact{Platform: Platform{OS: "linux", Arch: fmt.Sprintf("a%d", arch)}, Digest: Sum([]byte("all")), Length: MaxChunks}
		for i := range MaxChunks {
			a.Chunks = append(a.Chunks, Chunk{Digest: Sum(fmt.Append(nil, i)), Length: 1})
		}
		c.Artifacts = append(c.Artifacts, a)
	}
	m.Classes["kv"] = c
	if _, err := MarshalManifest(m); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "bigger chunks") {
		t.Errorf("too long: %v", err)
	}
}

// FuzzParseManifest: what is accepted is valid, and is the one form of itself.
func FuzzParseManifest(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			n := 0
			for _, sentinel := range classes {
				if errors.Is(err, sentinel) {
					n++
				}
			}
			if m != nil || n != 1 {
				t.Fatalf("manifest %v, %d classes in %v", m, n, err)
			}
			return
		}
		again, err := MarshalManifest(m)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted, but written again it differs: %v", err)
		}
	})
}

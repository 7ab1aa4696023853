package jq

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// manyNames writes an object with many names, and such objects within. twice makes
// one name of one of them come twice.
func manyNames(rng *rand.Rand, depth int, twice bool) string {
	n := rng.IntN(300) + 1
	if depth > 0 {
		n = rng.IntN(3*fewScanned) + 1
	}
	again := -1
	inside := map[int]bool{}
	if depth > 0 {
		inside[rng.IntN(n)], inside[rng.IntN(n)] = true, true
	}
	if twice && (depth == 0 || rng.IntN(3) == 0) {
		again, twice = rng.IntN(n), false
	}
	var b strings.Builder
	for i := range n {
		value := "1"
		if inside[i] {
			value = manyNames(rng, depth-1, twice)
			twice = false
		}
		fmt.Fprintf(&b, `,"name%d":%s`, i, value)
	}
	if again >= 0 {
		fmt.Fprintf(&b, `,"name%d":2`, again)
	}
	return "{" + b.String()[1:] + "}"
}

// A name that comes twice is found in any object, however many others are open or
// were before, in memory that is used again.
func TestManyNames(t *testing.T) {
	s := &Memory{}
	var pool Pool
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		twice := rng.IntN(2) == 0
		text := manyNames(rng, rng.IntN(4), twice)
		d, ok := scan([]byte(text), s)
		if ok == twice {
			t.Fatalf("seed %d: taken %v, a name twice %v: %.300s", seed, ok, twice, text)
		}
		if fault := scansWrongly([]byte(text)); fault != "" {
			t.Fatal(fault)
		}
		if ok && string(d.appendTo(nil)) != text {
			t.Fatalf("seed %d: %.300s became %.300s", seed, text, d.appendTo(nil))
		}
		if rng.IntN(4) == 0 {
			pool.Put(s)
			s = pool.Get()
		}
	}
}

// Eight bytes at once are the same as one by one.
func TestNotPlain(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var text [8]byte
	for range 200_000 {
		for i := range text {
			text[i] = "a\"\\\x1f\x20\x7f\x80\xff\x00\x21\x23\x5b\x5d\x7e\xa2\xdc"[rng.IntN(16)]
			if rng.IntN(4) > 0 {
				text[i] = byte(rng.IntN(256))
			}
		}
		want := 8
		for i, c := range text {
			if !inText[c] {
				want = i
				break
			}
		}
		look := notPlain(binary.LittleEndian.Uint64(text[:]))
		got := 8
		for got = 0; got < 8 && look>>(8*got)&0xff == 0; got++ {
		}
		if got != want {
			t.Fatalf("%q: %d, want %d", text, got, want)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	data := []byte(`{"key":"user/4711","revision":12345678901234567890,"tags":["a","b",{"c":null}],"value":"` +
		strings.Repeat("lorem ipsum dolor sit amet, ", 32) + `","content_type":"text/plain","meta":{"owner":"me","size":1.50}}`)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, ok := scan(data, nil); !ok {
			b.Fatal("not taken")
		}
	}
}

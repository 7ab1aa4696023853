package so

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
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
	s := &scratch{}
	var pool scratches
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		twice := rng.IntN(2) == 0
		text := manyNames(rng, rng.IntN(4), twice)
		d, ok := s.scan([]byte(text))
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
			pool.put(s)
			s = pool.get()
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

// Calls at once, whose memory is that of calls before, do not see each other's.
func TestMemoryIsNotShared(t *testing.T) {
	rules := mustParse(t, `
call "PUT /a/{key}" {
  step "one" "PUT /b/{key}" {
    body = ".body | . + {title: .name} | del(.name)"
  }
  next "PUT /c/{key}" {
    body = "{old: .steps.one.body, new: (.body | .size = 2)}"
  }
  response "200" {
    body = "{all: .body.old.title, size: .body.new.size, who: .request.params.key}"
  }
}
default { pass = true }
`)
	echo := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: r.Body, ContentLength: r.ContentLength, Request: r}, nil
	})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 1))
			for i := range 300 {
				name := fmt.Sprintf("%d/%d", worker, i)
				body := fmt.Sprintf(`{"name":%q,"more":%s}`, name, manyNames(rng, 1, false))
				resp, err := rules.Answer(httptest.NewRequest("PUT", fmt.Sprintf("/a/w%d", worker), strings.NewReader(body)), echo)
				if err != nil {
					t.Error(err)
					return
				}
				data, err := io.ReadAll(resp.Body)
				if want := fmt.Sprintf(`{"all":%q,"size":2,"who":"w%d"}`, name, worker); err != nil || string(data) != want {
					t.Errorf("%s, %v; want %s", data, err, want)
				}
			}
		})
	}
	wg.Wait()
}

package objects

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"moult/simlayer/host"
	"moult/store/bundle"
)

// TestChange runs scripts. Each line of a block is a happening, and the answer says
// how things are after it:
//
//	want ADDR VERSION...   objects for these callers, beside a node at ADDR
//	begin | follow | end   a change begins, calls go by it, what it left over has ended
//	refuse                 nothing could be changed
//	wait SECONDS           time passes
func TestChange(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		c, now := &change{}, time.Unix(1e9, 0)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var b strings.Builder
			for line := range strings.Lines(d.Input) {
				words := strings.Fields(line)
				if words[0] == "wait" {
					seconds, err := time.ParseDuration(words[1] + "s")
					if err != nil {
						t.Fatal(err)
					}
					now = now.Add(seconds)
				} else if err := c.script(words, now); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "%s: %s\n", strings.TrimSpace(line), c.told(now))
			}
			return b.String()
		})
	})
}

func (c *change) script(words []string, now time.Time) error {
	switch words[0] {
	case "want":
		set := host.Objects{Native: 1, Node: map[string]string{"api": words[1]}, Hold: hold}
		for _, w := range words[2:] {
			var v bundle.Version
			if _, err := fmt.Sscan(w, &v); err != nil {
				return err
			}
			set.List = append(set.List, host.Object{Version: v, To: v - 1})
		}
		c.want(set, now)
	case "begin":
		c.begin()
	case "follow":
		c.follow()
	case "end":
		c.end()
	case "refuse":
		c.refuse(errors.New("planted"), now)
	default:
		return fmt.Errorf("unknown: %q", words)
	}
	return nil
}

func (c *change) told(now time.Time) string {
	text := c.at.String()
	for v := bundle.Version(2); v < 9; v++ {
		if c.answers(v) {
			text += fmt.Sprintf(", answers %d", v)
		}
	}
	for _, x := range []struct {
		word string
		is   bool
	}{{"may begin", c.mayBegin(now)}, {"behind", c.behind(false, now)}, {"behind though open", c.behind(true, now)}} {
		if x.is {
			text += ", " + x.word
		}
	}
	if err := c.obstacle(); err != nil {
		text += ", " + err.Error()
	}
	return text
}

// No other move is let through.
func TestMoves(t *testing.T) {
	for _, at := range slices.Sorted(maps.Keys(next)) {
		for h := wantOther; h <= ended; h++ {
			_, allowed := next[at][h]
			func() {
				defer func() {
					if fault := recover(); (fault == nil) != allowed {
						t.Errorf("%v, happening %d: allowed %v, fault %v", at, h, allowed, fault)
					}
				}()
				(&change{at: at}).move(h)
			}()
		}
	}
}

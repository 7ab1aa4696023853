package bundle

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFacts(t *testing.T) {
	every := func(f Fact) Fact {
		f.Every, f.Timeout = Duration(time.Second), Duration(time.Second)
		return f
	}
	for want, change := range map[string]func(*ClassUpgrade, *Fact){
		"":                                  func(*ClassUpgrade, *Fact) {},
		"classes.kv.facts: 9":               func(c *ClassUpgrade, f *Fact) { c.Facts = manyFacts(*f, MaxFacts+1) },
		"classes.kv.facts.a-b":              func(c *ClassUpgrade, f *Fact) { c.Facts["a-b"] = *f },
		"want exactly one of http and exec": func(_ *ClassUpgrade, f *Fact) { f.Exec = []string{"x"} },
		"is not asked by http":              func(_ *ClassUpgrade, f *Fact) { f.HTTP, f.Exec = "", []string{"x"} },
		"errors.http":                       func(_ *ClassUpgrade, f *Fact) { f.HTTP = "stats" },
		"errors.service":                    func(_ *ClassUpgrade, f *Fact) { f.Service = "none" },
		"errors.pointer":                    func(_ *ClassUpgrade, f *Fact) { f.Pointer = "/a~2" },
		"errors.prometheus":                 func(_ *ClassUpgrade, f *Fact) { f.Pointer, f.Prometheus = "", "a b" },
		"errors.every":                      func(_ *ClassUpgrade, f *Fact) { f.Every = 1 },
		"errors.timeout":                    func(_ *ClassUpgrade, f *Fact) { f.Timeout = 0 },
		"errors.step":                       func(_ *ClassUpgrade, f *Fact) { f.Step = math.Inf(1) },
		"schedule.when":                     func(c *ClassUpgrade, _ *Fact) { c.Schedule.When = strings.Repeat("a", MaxExpressionBytes+1) },
		"schedule.hold_if":                  func(c *ClassUpgrade, _ *Fact) { c.Schedule.HoldIf = "a\x1b" },
	} {
		m := good(t)
		c := m.Classes["kv"]
		var service string
		for name, s := range c.Services {
			if s.Protocol == ProtocolHTTP {
				service = name
			}
		}
		f := every(Fact{HTTP: "/stats", Service: service, Pointer: "/a/0", Step: 0.5})
		c.Facts = map[string]Fact{}
		change(&c, &f)
		if len(c.Facts) <= MaxFacts {
			c.Facts["errors"] = f
		}
		m.Classes["kv"] = c
		m.Format = m.LowestFormat()
		if m.Format != FormatFacts {
			t.Fatal("format", m.Format)
		}
		if err := m.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if want != "" {
			continue
		}
		data, err := MarshalManifest(m)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseManifest(data); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("it does not survive its own bytes: %v", err)
		}
	}
}

func manyFacts(f Fact, n int) map[string]Fact {
	all := map[string]Fact{}
	for i := range n {
		all["f"+string(rune('a'+i))] = f
	}
	return all
}

func TestParseSeries(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"up": {}, "up{}": {}, `up{a="b"}`: {"a": "b"}, `up{ a = "b", c="d,}\"\n" , }`: {"a": "b", "c": "d,}\"\n"},
	} {
		if s, err := ParseSeries(text); err != nil || s.Metric != "up" || !reflect.DeepEqual(s.Labels, want) {
			t.Errorf("%s: %+v %v", text, s, err)
		}
	}
	for _, text := range []string{"", "{}", "a b", "up{a}", `up{a="b"`, `up{a="b" c="d"}`, `up{a="b",a="c"}`, `up{a='b'}`, `up{a=~"b"}`, `sum(up)`, `up{a="\x"}`, strings.Repeat("a", MaxHTTPPathBytes+1)} {
		if s, err := ParseSeries(text); err == nil {
			t.Errorf("%.40s: %+v", text, s)
		}
	}
}

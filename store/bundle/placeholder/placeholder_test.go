package placeholder

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFill(t *testing.T) {
	values := map[string]string{"state": "/s", "service.api": "127.0.0.1:1", "service.api.port": "1", "vars.a_B-1": "${state}"}
	value := func(name string) (string, error) {
		v, ok := values[name]
		if !ok {
			return "", errors.New("no " + name)
		}
		return v, nil
	}
	for _, c := range []struct{ text, want, err string }{
		{"", "", ""},
		{"a $ b {c} $d", "a $ b {c} $d", ""},
		{"--x=${state}:${service.api.port}", "--x=/s:1", ""},
		{"${vars.a_B-1}", "${state}", ""}, // what is filled in is not looked at again
		{"$${state}", "${state}", ""},
		{"$$${state}", "$${state}", ""},
		{"$${${state}}", "${/s}", ""},
		{"$${", "${", ""},
		{"${state", "", "no placeholder"},
		{"${}", "", "no placeholder"},
		{"${states}", "", "no placeholder"},
		{"${service.api.x}", "", "no placeholder"},
		{"${service}", "", "no placeholder"},
		{"${vars.}", "", "no placeholder"},
		{"${ state }", "", "no placeholder"},
		{"${vars.b}", "", "no vars.b"},
	} {
		got, err := Fill(c.text, value)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %q, %v, want %q", c.text, got, err, c.err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%q: %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}

// What the operator has set is filled in as it is, and the agent's part is left to the agent.
func TestSettle(t *testing.T) {
	vars := map[string]string{"a": "${state}", "b": "x$", "c": "$", "e": "\x00"}
	for _, c := range []struct {
		argv, args, want []string
		err              string
	}{
		{[]string{"p", "${args}", "q"}, nil, []string{"p", "q"}, ""},
		{[]string{"p", "${args}", "${args}"}, []string{"a b", "${state}"}, []string{"p", "a b", "${state}", "a b", "${state}"}, ""},
		{[]string{"p", "${vars.a}"}, nil, []string{"p", "$${state}"}, ""},
		{[]string{"p", "-${vars.b}-$${x}-${service.api.host}"}, nil, []string{"p", "-x$-$${x}-${service.api.host}"}, ""},
		{[]string{"p", "${vars.d}"}, nil, nil, "${vars.d} has no value"},
		{[]string{"p", "x${args}"}, nil, nil, "a text by itself"},
		{[]string{"p", "${x}"}, nil, nil, "no placeholder"},
		{[]string{"p", "${vars.c}{state}"}, nil, []string{"p", "$${state}"}, ""},
		{[]string{"p", "${vars.e}"}, nil, nil, "zero bytes"},
		{[]string{"p", "${vars.c}${state}"}, nil, nil, "a $ cannot stand"},
	} {
		got, err := Settle(c.argv, c.args, vars)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || !slices.Equal(got, c.want) {
			t.Errorf("%q with %q: %q, %v, want %q, %q", c.argv, c.args, got, err, c.want, c.err)
		}
	}
}

// Whatever a text is, its escape stands for it, and nothing else is read out of it.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "${state}", "$${state}", "$$$${", "a${", "$", "${${"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, ok := Plain(Escape(s)); !ok || got != s {
			t.Fatalf("%q became %q, %v", s, got, ok)
		}
		if names, err := Names(s); err == nil {
			for _, n := range names {
				if !ValidName(n) {
					t.Fatalf("%q: name %q", s, n)
				}
			}
		}
	})
}

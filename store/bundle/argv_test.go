package bundle

import (
	"slices"
	"testing"
)

// A release says what it can in the older form, and means the same by it.
func TestLower(t *testing.T) {
	for _, c := range []struct {
		text, older string
		format      int
	}{
		{"${state}/x", "${state}/x", FormatVersion},
		{"${service.api}", "${service.api}", FormatVersion},
		{"$${HOME} $${service}", "${HOME} ${service}", FormatVersion},
		{"$${stat${state}", "${stat${state}", FormatVersion},
		{"$${state}", "", FormatPlaceholders},            // older agents would fill it in
		{"$${service.api}", "", FormatPlaceholders},      // likewise
		{"$${service.${state}}", "", FormatPlaceholders}, // and would refuse this
		{"${service.api.host}", "", FormatPlaceholders},
		{"${vars.x}", "", FormatPlaceholders},
		{"${args}", "", FormatPlaceholders},
	} {
		u := ClassUpgrade{Command: []string{"./kv", c.text, "$${other}"}}
		u.Lower()
		m := Manifest{Version: 1, Classes: map[Class]ClassUpgrade{"kv": u}}
		want := []string{"./kv", c.text, "$${other}"}
		if c.format == FormatVersion {
			want = []string{"./kv", c.older, "${other}"}
		}
		if got := m.LowestFormat(); got != c.format || !slices.Equal(u.Command, want) || u.Placeholders != (c.format == FormatPlaceholders) {
			t.Errorf("%q: %q, format %d, want %q, %d", c.text, u.Command, got, want, c.format)
		}
	}
}

// The lowest format is the highest that some part needs, in whatever order they come.
func TestLowestFormat(t *testing.T) {
	m := Manifest{Version: 4, Classes: map[Class]ClassUpgrade{
		"a": {From: 1, Services: map[string]Service{"x": {Protocol: ProtocolUDP}}},
		"b": {From: 3, Services: map[string]Service{"x": {Protocol: ProtocolUDP}}},
	}}
	for range 50 {
		if got := m.LowestFormat(); got != FormatWithdrawn {
			t.Fatalf("format %d, want %d", got, FormatWithdrawn)
		}
	}
}

package main

import (
	"encoding/json"
	"runtime/debug"
	"strings"
	"testing"
)

// What is known of a build is told, and what is not is not made up.
func TestBuildOf(t *testing.T) {
	settings := func(modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "e6faa52"},
			{Key: "vcs.time", Value: "2026-11-29T12:00:00Z"}, {Key: "vcs.modified", Value: modified}}
	}
	const stamped = "moult     v1.2.3\ncommit    e6faa52\ndate      2026-11-29T12:00:00Z\ntree      "
	for _, c := range []struct {
		name       string
		info       *debug.BuildInfo
		text, json string
	}{
		{"a clean clone", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: settings("false")},
			stamped + "as committed\n", `"version":"v1.2.3","commit":"e6faa52","date":"2026-11-29T12:00:00Z","modified":false`},
		{"a tree with changes", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: settings("true")},
			stamped + "modified", `"modified":true`},
		{"go run", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}},
			"moult     not known\ncommit    not known\ndate      not known\ntree      not known\n", `"version":null,"commit":null,"date":null,"modified":null`},
		{"no build info", nil, "`go build` in a git clone records these", `"commit":null`},
	} {
		var out strings.Builder
		if err := buildOf(c.info).print(&out); err != nil || !strings.Contains(out.String(), c.text) {
			t.Errorf("%s: %v\n%s\nwant %s", c.name, err, out.String(), c.text)
		}
		data, err := json.Marshal(buildOf(c.info))
		if err != nil || !strings.Contains(string(data), c.json) {
			t.Errorf("%s: %v, %s, want %s", c.name, err, data, c.json)
		}
	}
}

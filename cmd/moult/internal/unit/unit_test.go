package unit

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/config"
)

var update = flag.Bool("update", false, "write the golden file anew")

// A unit with drop-ins becomes what stands in testdata/agent.hcl, which an agent can read.
func TestConvert(t *testing.T) {
	s, err := FromFile("testdata/kv.service", "")
	if err != nil {
		t.Fatal(err)
	}
	made, err := Convert(s, Options{Root: "root.json", Key: "gossip.key", Version: 3, Services: map[string]string{"api": "10.0.0.5:7000"}})
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/agent.hcl"
	if *update {
		if err := os.WriteFile(golden, []byte(made.Text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || string(want) != made.Text {
		t.Errorf("got %s, %v", made.Text, err)
	}
	c, err := config.Load(golden)
	if err == nil {
		c.Bounds.Limits = nil // what this process may have is not the unit's matter
		err = c.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"/usr/bin/kv", "serve", "--state", "${state}", "--listen", "${service.api}", "--admin=:${service.api.port}", "--log", "debug", "--dollar", "$x", "--text", "two words", `quoted "word"`, "--none"}
	if got, err := c.Settle(c.Adopt.Command); err != nil || len(got) != len(argv) {
		t.Errorf("its command: %q, %v", got, err)
	}
	if c.User != "kv" || c.Group != "kv" || c.Env["GOGC"] != "70" || c.Env["STATE"] != "" || c.Bounds.Together.MemoryMax != 1<<30 || c.Adopt.State != "/var/lib/kv" || c.Class != "kv" {
		t.Errorf("%+v", c)
	}
	// Each line of the files is there, or named.
	for _, file := range s.Files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := parse(file, text)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			named := slices.ContainsFunc(made.Notes, func(n string) bool { return strings.HasPrefix(n, l.place+": ") })
			if want := slices.Contains([]string{"After", "ConditionPathExists", "ExecStartPre", "ExecReload", "KillSignal", "Restart", "ProtectSystem", "LimitNICE", "LimitNOFILE", "StateDirectory", "ExecStart"}, l.key); want != named {
				t.Errorf("%s: named %t, want %t", l, named, want)
			}
		}
	}
}

// What cannot be taken over is an error that says where.
func TestRefused(t *testing.T) {
	good := "[Service]\nExecStart=/bin/kv\nStateDirectory=kv\n"
	for name, c := range map[string]struct{ text, unit, want string }{
		"good":              {good, "", ""},
		"one-shot":          {good + "Type=oneshot\n", "", "kv.service:4: Type: software of this type does not run on by itself"},
		"no command":        {"[Service]\nStateDirectory=kv\n", "", "unit kv.service has 0 lines ExecStart=, want one"},
		"two commands":      {good + "ExecStart=/bin/two\n", "", "has 2 lines ExecStart=, want one"},
		"reset":             {good + "ExecStart=\nExecStart=/bin/two\n", "", ""},
		"several in a line": {"[Service]\nExecStart=/bin/kv ; /bin/two\nStateDirectory=kv\n", "", "kv.service:2: ExecStart: it has several commands"},
		"open quote":        {"[Service]\nExecStart=/bin/kv \"x\nStateDirectory=kv\n", "", "kv.service:2: ExecStart: a quote \" is not closed"},
		"no state":          {"[Service]\nExecStart=/bin/kv\n", "", "unit kv.service has no StateDirectory=: say where the software's state is, by --state FOLDER"},
		"unknown specifier": {"[Service]\n\n# x\nExecStart=/bin/kv %b\nStateDirectory=kv\n", "", "kv.service:4: ExecStart: %b is a specifier that is not known here"},
		"no instance":       {"[Service]\nExecStart=/bin/kv %i\nStateDirectory=kv\n", "kv@.service", "%i has no value in unit kv@.service: name one of its instances"},
		"an instance":       {"[Service]\nExecStart=/bin/kv %i\nStateDirectory=kv\n", "kv@a.service", ""},
		"environment":       {good + "Environment=1A=b\n", "", `kv.service:4: Environment: "1A=b" is not NAME=VALUE`},
		"no file":           {good + "EnvironmentFile=/nonexistent/x\n", "", "kv.service:4: EnvironmentFile: open /nonexistent/x"},
		"time":              {good + "TimeoutStopSec=soon\n", "", `kv.service:4: TimeoutStopSec: "soon" is no time`},
		"limit":             {good + "LimitNOFILE=many\n", "", `kv.service:4: LimitNOFILE: "many" is no amount`},
		"folder":            {good + "WorkingDirectory=here\n", "", `kv.service:4: WorkingDirectory: "here" is no absolute path`},
		"no unit file":      {"[Service]\nExecStart\n", "", "it is no unit file"},
		"a socket":          {good, "kv.socket", `unit "kv.socket": want a service`},
	} {
		file := filepath.Join(t.TempDir(), "kv.service")
		if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := FromFile(file, c.unit)
		if err == nil {
			_, err = Convert(s, Options{Services: map[string]string{"api": "10.0.0.5:7000"}})
		}
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := Convert(Source{Name: "kv.service", Files: []string{"testdata/kv.service"}}, Options{}); err == nil || !strings.Contains(err.Error(), "--service NAME=HOST:PORT") {
		t.Errorf("without a service: %v", err)
	}
}

// What only begins or ends like the state, the address or the port is left as it is.
func TestSwap(t *testing.T) {
	j := &job{Options: Options{State: "/var/lib/kv", Services: map[string]string{"api": "10.0.0.5:7000"}}, argv: []string{
		"/var/lib/kv", "--state=/var/lib/kv/db,/var/lib/kv", "--cache=/var/lib/kv-cache/x", "/srv/var/lib/kv", "/var/lib/kv.old", "/var/lib/kv_2",
		"10.0.0.5:7000", "http://10.0.0.5:7000/x", "10.0.0.5:70001", "110.0.0.5:70001", "--admin=:7000", "kv-7000", "7000.sock",
		"--peer=10.0.0.6:7000", "http://db:7000/x", "[::]:7000", "localhost:7000",
	}}
	j.place()
	want := []string{
		`"${state}"`, `"--state=${state}/db,${state}"`, `"--cache=/var/lib/kv-cache/x"`, `"/srv/var/lib/kv"`, `"/var/lib/kv.old"`, `"/var/lib/kv_2"`,
		`"${service.api}"`, `"http://${service.api}/x"`, `"10.0.0.5:70001"`, `"110.0.0.5:70001"`, `"--admin=:${service.api.port}"`, `"kv-7000"`, `"7000.sock"`,
		`"--peer=10.0.0.6:7000"`, `"http://db:7000/x"`, `"[::]:${service.api.port}"`, `"localhost:${service.api.port}"`,
	}
	if !slices.Equal(j.argv, want) {
		t.Errorf("got  %q\nwant %q", j.argv, want)
	}
}

// A file of an environment that may be missing is named where it is there and cannot be read.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]int{dir: 1, filepath.Join(dir, "none"): 0} {
		j := &job{env: map[string]string{}, lines: []line{{section: "Service", key: "EnvironmentFile", value: "-" + path, place: "kv.service:3"}}}
		if err := j.environment(); err != nil || len(j.notes) != want || want > 0 && !strings.HasPrefix(j.notes[0], "kv.service:3: EnvironmentFile=-"+path+": it cannot be read") {
			t.Errorf("%s: %q, %v", path, j.notes, err)
		}
	}
}

func TestWords(t *testing.T) {
	for text, want := range map[string][]string{
		`a  b`: {"a", "b"}, `"a b" c`: {"a b", "c"}, `a"b c"d`: {"ab cd"}, `'a\'b'`: {"a'b"}, `\x41\101\u00e9\s`: {"AAé "}, `\q`: {`\q`}, `""`: {""}, ``: nil,
	} {
		if got, err := words(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{"%n": "a-b@c-d.service", "%p": "a-b", "%P": "a/b", "%j": "b", "%i": "c-d", "%I": "c/d", "%f": "/c/d", "%N": "a-b@c-d", "%%": "%", "%S/%p": "/var/lib/a-b", "%": "%"} {
		if got, err := specifiers(text, "a-b@c-d.service"); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]time.Duration{"90": 90 * time.Second, "1min 20s": 80 * time.Second, "1min20s": 80 * time.Second, "1.5h": 90 * time.Minute, "200ms": 200 * time.Millisecond} {
		if got, err := span(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := span("infinity"); !errors.Is(err, errEndless) {
		t.Error(err)
	}
	if got := unescaped(`a-b\x2dc`); got != "a/b-c" {
		t.Errorf("%q", got)
	}
}

// What systemctl shows names a unit's files in order.
func TestShown(t *testing.T) {
	s, err := shown("kv", []byte("MainPID=77\nId=kv.service\nLoadState=loaded\nFragmentPath=/lib/kv.service\nDropInPaths=/etc/a.conf /run/b.conf\nNeedDaemonReload=no\n"))
	if err != nil || s.PID != 77 || s.Name != "kv.service" || !slices.Equal(s.Files, []string{"/lib/kv.service", "/etc/a.conf", "/run/b.conf"}) {
		t.Errorf("%+v, %v", s, err)
	}
	for said, want := range map[string]string{"LoadState=not-found\nFragmentPath=\n": "systemd has no file of unit kv", "FragmentPath=/x\nNeedDaemonReload=yes\n": "systemctl daemon-reload"} {
		if _, err := shown("kv", []byte(said)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	text, err := os.ReadFile("testdata/kv.service")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > maxFile {
			return
		}
		lines, err := parse("x", []byte(text))
		if err != nil {
			return
		}
		for _, l := range lines {
			_, _ = words(l.value)
			_, _ = specifiers(l.value, "a@b.service")
			_, _ = span(l.value)
			_, _ = size(l.value)
		}
	})
}

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
)

const goodConfig = `agent {
  name  = "n1"
  class = "kv"
  data  = "data"
  root  = "/etc/moult/root.json"
  bind  = "127.0.0.1:7100"
  join  = ["127.0.0.1:7200"]
  sync_interval = "2s"
  env = { LOG = "info" }
  on_event = ["./tell", "a b"]
  service "api" {
    address  = "127.0.0.1:7110"
    versions = "7111-7119"
  }
  adopt {
    version = 3
    command = ["./kv", "--state", "${state}", "--listen", "${service.api}"]
    state   = "old"
    health {
      http    = "/healthz"
      service = "api"
    }
  }
}
`

// manyVars are n variables.
func manyVars(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "v%d = \"x\"\n", i)
	}
	return b.String()
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := writeConfig(t, goodConfig)
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	dir := filepath.Dir(path)
	if c.Data != filepath.Join(dir, "data") || c.Root != "/etc/moult/root.json" || c.Adopt.State != filepath.Join(dir, "old") {
		t.Errorf("paths: %q %q %q, want them taken from %s", c.Data, c.Root, c.Adopt.State, dir)
	}
	if c.File != path {
		t.Errorf("it stands in %q, want %q", c.File, path)
	}
	if got := c.Adopt.Command; strings.Join(got, " ") != "./kv --state ${state} --listen ${service.api}" {
		t.Errorf("adopted command: %q", got)
	}
	if got := c.OnEvent; !slices.Equal(got, []string{filepath.Join(dir, "tell"), "a b"}) {
		t.Errorf("on_event: %q", got)
	}
	if c.SyncInterval != 2*time.Second || c.FirstSync != Default().FirstSync {
		t.Errorf("times: %v, %v", c.SyncInterval, c.FirstSync)
	}
}

// TestTexts: what may refer to what is known later is kept, whatever may not is refused
// (TestLoadRefuses), and the operator's own is filled in.
func TestTexts(t *testing.T) {
	text := strings.Replace(goodConfig, `env = { LOG = "info" }`, `
  env  = { LOG = "info", N = 7, ADDR = "h=${service.api.host} p=${service.api.port}", ODD = "$${state}" }
  args = ["--advertise=${service.api}", "a b", "$${x}", 5]
  vars = { region = "eu", "a-b" = "$${state}" }`, 1)
	text = strings.Replace(text, `"--state", "${state}"`, `"--state", "${state}", "${args}", "-${vars.region}-${vars.a-b}"`, 1)
	c, err := Load(writeConfig(t, text))
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	if want := (map[string]string{"LOG": "info", "N": "7", "ADDR": "h=${service.api.host} p=${service.api.port}", "ODD": "$${state}"}); !maps.Equal(c.Env, want) {
		t.Errorf("env: %q", c.Env)
	}
	if want := (map[string]string{"region": "eu", "a-b": "${state}"}); !maps.Equal(c.Vars, want) {
		t.Errorf("vars: %q", c.Vars)
	}
	got, err := c.Settle(c.Adopt.Command)
	if want := []string{"./kv", "--state", "${state}", "--advertise=${service.api}", "a b", "$${x}", "5", "-eu-$${state}", "--listen", "${service.api}"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the adopted command: %q, %v", got, err)
	}
	if _, err := c.Settle([]string{"./kv", "${vars.zone}"}); err == nil || !strings.Contains(err.Error(), `${vars.zone} has no value: say vars = { zone = "…" } in agent.hcl`) {
		t.Errorf("a variable that is not set: %v", err)
	}
	c.Vars["long"] = strings.Repeat("x", bundle.MaxArgBytes)
	if _, err := c.Settle([]string{strings.Repeat("${vars.long}", 17)}); err == nil || !strings.Contains(err.Error(), "shorten") {
		t.Errorf("a long argument: %v", err)
	}
	if _, err := c.Settle(slices.Repeat([]string{"${vars.long}"}, 33)); err == nil || !strings.Contains(err.Error(), "shorten") {
		t.Errorf("a long command: %v", err)
	}
}

// TestWords: how a node is reached and how it calls is said per service and
// once; the older form, egress in a service, goes on working.
func TestWords(t *testing.T) {
	for name, c := range map[string]struct{ agent, service, attach, egress string }{
		"defaults":     {"", "", AttachAuto, EgressAuto},
		"each once":    {`egress = "connect"`, `attach = "steer"`, AttachSteer, EgressConnect},
		"older form":   {"", `egress = "resolve"`, AttachAuto, EgressResolve},
		"both agree":   {`egress = "proxy"`, "egress = \"proxy\"\n attach = \"inherit\"", AttachInherit, EgressProxy},
		"relayed tcp":  {"", "protocol = \"tcp\"\n attach = \"relay\"", AttachRelay, EgressAuto},
		"said default": {`egress = "auto"`, `attach = "auto"`, AttachAuto, EgressAuto},
	} {
		text := strings.Replace(goodConfig, `name  = "n1"`, `name = "n1"`+"\n"+c.agent, 1)
		text = strings.Replace(text, `address  =`, c.service+"\naddress =", 1)
		cfg, err := Load(writeConfig(t, text))
		if err == nil {
			err = cfg.Validate()
		}
		if err != nil || cfg.Services["api"].Attach != c.attach || cfg.Egress != c.egress {
			t.Errorf("%s: attach %q, egress %q, %v", name, cfg.Services["api"].Attach, cfg.Egress, err)
		}
	}
}

// TestLoadRefuses: each change of the good configuration is refused by
// name, before anything is touched.
func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown attribute":        {`class = "kv"`, `class = "kv"` + "\n colour = \"red\"", `argument named "colour" is not expected`},
		"unknown block":            {`adopt {`, "adoption {\n}\nadopt {", `Blocks of type "adoption" are not expected`},
		"no class":                 {`class = "kv"`, ``, `The argument "class" is required`},
		"wrong type":               {`class = "kv"`, `class = ["kv"]`, "Unsuitable value type"},
		"not HCL":                  {`agent {`, `{"agent": [`, "agent.hcl line 1"},
		"deep":                     {`["127.0.0.1:7200"]`, strings.Repeat("[", 50000), "Too complicated"},
		"deep by operators":        {`["127.0.0.1:7200"]`, strings.Repeat("!", 50000) + "true", "Too complicated"},
		"too long":                 {`name  = "n1"`, strings.Repeat("# no end\n", 1<<15), "more than 131072 bytes"},
		"no port":                  {`bind  = "127.0.0.1:7100"`, `bind = "127.0.0.1"`, `bind = "127.0.0.1": want host:port`},
		"port not a number":        {`bind  = "127.0.0.1:7100"`, `bind = "127.0.0.1:seven"`, `bind = "127.0.0.1:seven": want host:port`},
		"versions no range":        {`"7111-7119"`, `"7111"`, `versions = "7111": want a range of ports`},
		"versions backwards":       {`"7111-7119"`, `"7119-7111"`, "want at least two ports"},
		"nobody to be told":        {`"./tell"`, `""`, "on_event: its first text names no program"},
		"told too much":            {`"a b"`, `"a\u0000b"`, "on_event[1]: want at most"},
		"no time":                  {`"2s"`, `"2"`, `sync_interval = "2": want a time such as "10s"`},
		"time too short":           {`"2s"`, `"1ms"`, "at least 50ms"},
		"name":                     {`"n1"`, `"n 1"`, `name = "n 1": want letters`},
		"class":                    {`class = "kv"`, `class = "K V"`, `class = "K V"`},
		"adopt no service":         {`service = "api"`, `service = "apis"`, `there is no such service block`},
		"attach":                   {`versions = "7111-7119"`, "versions = \"7111-7119\"\n attach = \"magic\"", `service "api": attach = "magic": want "auto", "relay", "inherit" or "steer"`},
		"egress":                   {`class = "kv"`, "class = \"kv\"\n egress = \"magic\"", `egress = "magic": want "auto", "proxy", "connect" or "resolve"`},
		"egress of a service":      {`versions = "7111-7119"`, "versions = \"7111-7119\"\n egress = \"magic\"", `egress = "magic": want`},
		"an open way that is none": {`class = "kv"`, "class = \"kv\"\n egress = \"connect\"\n egress_open = true", `egress_open = true is for the proxy, and there is none with egress = "connect"`},
		"two egresses": {`class = "kv"`, "class = \"kv\"\n egress = \"proxy\"\n service \"b\" {\n address = \"127.0.0.1:7120\"\n versions = \"7121-7129\"\n egress = \"connect\"\n }",
			`egress = "proxy", but egress of service "b" = "connect": a node has one egress`},
		"egresses of services": {`service "api" {`, "service \"b\" {\n address = \"127.0.0.1:7120\"\n versions = \"7121-7129\"\n egress = \"connect\"\n }\n service \"api\" {\n egress = \"resolve\"",
			`egress of service "b" = "connect", but egress of service "api" = "resolve"`},
		"var unset":         {`"${state}"`, `"${vars.zone}"`, `adopt: command: ${vars.zone} has no value`},
		"var name":          {`class = "kv"`, "class = \"kv\"\n vars = { \"1\" = \"x\" }", `vars: "1" is no name`},
		"var of state":      {`class = "kv"`, "class = \"kv\"\n vars = { x = \"${state}\" }", "Here no reference can stand"},
		"vars a list":       {`class = "kv"`, "class = \"kv\"\n vars = [\"x\"]", "texts by name"},
		"var a list":        {`class = "kv"`, "class = \"kv\"\n vars = { x = [\"x\"] }", "texts by name"},
		"many vars":         {`class = "kv"`, "class = \"kv\"\n vars = {" + manyVars(65) + "}", "vars: 65 of them"},
		"long var":          {`class = "kv"`, "class = \"kv\"\n vars = { x = \"" + strings.Repeat("x", 4097) + "\" }", "at most 4096 bytes"},
		"args a text":       {`class = "kv"`, "class = \"kv\"\n args = \"x\"", "a list of texts"},
		"args of vars":      {`class = "kv"`, "class = \"kv\"\n args = [\"${vars.x}\"]", "can stand; write $${"},
		"args of service":   {`class = "kv"`, "class = \"kv\"\n args = [\"${service.web.port}\"]", `The file has no service "web"; it declares api`},
		"part of service":   {`"${service.api}"`, `"${service.api.name}"`, `A service has host and port, such as ${service.api.port}, and no "name"`},
		"reference in data": {`data  = "data"`, `data = "${state}"`, "Variables not allowed"},
		"args among text":   {`"${state}"`, `"x${args}"`, "a text by itself"},
		"group, no user":    {`class = "kv"`, "class = \"kv\"\n group = \"kv\"", "group, supplementary_groups: they are of the user of the node's programs: say user, too"},
		"groups, no user":   {`class = "kv"`, "class = \"kv\"\n supplementary_groups = [\"kv\"]", "say user, too"},
		"many groups":       {`class = "kv"`, "class = \"kv\"\n user = \"kv\"\n supplementary_groups = [" + strings.Repeat("\"g\", ", 65) + "]", "supplementary_groups: 65 of them"},
		"limit no number":   {`class = "kv"`, "class = \"kv\"\n rlimits {\n nofile = \"many\"\n }", `rlimits: nofile = "many": want a number`},
		"limit a list":      {`class = "kv"`, "class = \"kv\"\n rlimits {\n nofile = [1]\n }", `rlimits: nofile: want a number`},
		"limit unknown":     {`class = "kv"`, "class = \"kv\"\n rlimits {\n files = 5\n }", `rlimits: this system has no "files"`},
		"umask":             {`class = "kv"`, "class = \"kv\"\n umask = \"rwx\"", `umask = "rwx": want octal digits`},
		"umask of more":     {`class = "kv"`, "class = \"kv\"\n umask = \"1777\"", "want at most 0777"},
		"memory_max":        {`class = "kv"`, "class = \"kv\"\n memory_max = \"64MB\"", `memory_max = "64MB": want a number of bytes, such as`},
		"memory_max, huge":  {`class = "kv"`, "class = \"kv\"\n memory_max = \"99999999TiB\"", `memory_max = "99999999TiB": want a number`},
		"memory_max, tiny":  {`class = "kv"`, "class = \"kv\"\n memory_max = 4096", `memory_max = 4096: want 1048576 bytes or more`},
		"cpu_weight 0":      {`class = "kv"`, "class = \"kv\"\n cpu_weight = 0", "cpu_weight = 0: want 1 to 10000"},
		"cpu_weight high":   {`class = "kv"`, "class = \"kv\"\n cpu_weight = 10001", "cpu_weight = 10001: want 1 to 10000"},
		"oom_score":         {`class = "kv"`, "class = \"kv\"\n oom_score = 5000", "want -1000 to 1000"},
		"readable is ours":  {`class = "kv"`, "class = \"kv\"\n readable = [\"/srv\", \"data/log\"]", "data/log is in the data folder, which is the agent's own: leave it out"},
		"writable is ours":  {`class = "kv"`, "class = \"kv\"\n writable = [\"data\"]", "which is the agent's own: leave it out"},
		"many readable":     {`class = "kv"`, "class = \"kv\"\n readable = [" + strings.Repeat("\"/srv\", ", 65) + "]", "readable: 65 paths, the most is 64"},
		"no path":           {`class = "kv"`, "class = \"kv\"\n writable = [\"\"]", `writable: "" is no path`},
		"user, open api":    {`class = "kv"`, "class = \"kv\"\n user = \"kv\"\n api = \"127.0.0.1:7947\"", "who could command the agent by it: say api_token, too"},
		"user, resolve":     {`class = "kv"`, "class = \"kv\"\n user = \"kv\"\n egress = \"resolve\"", `who may not use the agent's socket: use "proxy" or "connect"`},
		"protocol":          {`versions = "7111-7119"`, "versions = \"7111-7119\"\n protocol = \"quic\"", `protocol = "quic": want "http", "tcp" or "udp"`},
		"udp by http":       {`service "api" {`, "service \"api\" {\n protocol = \"udp\"", `adopt: health: service = "api": it speaks udp, which accepts no connection`},
		"any address":       {"127.0.0.1:7110", "0.0.0.0:7110", `peers and callers dial it, so it must be an address of this machine, such as "10.0.0.5:7110"`},
		"any address of 6":  {"127.0.0.1:7110", "[::ffff:0.0.0.0]:7110", `such as "10.0.0.5:7110"`},
		"no host":           {"127.0.0.1:7110", ":7110", `such as "10.0.0.5:7110"`},
		"port 0":            {"127.0.0.1:7110", "127.0.0.1:0", "want the port that callers dial"},
		"service twice":     {`service "api" {`, "service \"api\" {\n address = \"127.0.0.1:7120\"\n versions = \"7121-7129\"\n }\n service \"api\" {", "there are two such blocks"},
		"udp by udp":        {`service "api" {`, "service \"b\" {\n protocol = \"udp\"\n address = \"127.0.0.1:7110\"\n versions = \"7121-7129\"\n }\n service \"c\" {\n protocol = \"udp\"\n address = \"127.0.0.1:7110\"\n versions = \"7131-7139\"\n }\n service \"api\" {", `taken twice: by the address of service "b" and by the address of service "c"`},
		"public is ring":    {`"127.0.0.1:7110"`, `"127.0.0.1:7100"`, "port 7100 is taken twice"},
		"public is version": {`"127.0.0.1:7110"`, `"127.0.0.1:7111"`, "port 7111 is taken twice"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(goodConfig, c.old) {
				t.Fatalf("the good configuration has no %q", c.old)
			}
			cfg, err := Load(writeConfig(t, strings.Replace(goodConfig, c.old, c.new, 1)))
			if err == nil {
				err = cfg.Validate()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.hcl")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a folder was read as a configuration")
	}
}

// Services of TCP and UDP may have one number; where nobody says which it is, not.
func TestPortsOfNetworks(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"tcp", "udp", ""}, {"http", "udp", ""},
		{"udp", "udp", "taken twice"}, {"http", "tcp", "taken twice"},
		{"", "udp", "a protocol says it"}, {"", "", "a protocol says it"},
	} {
		services := map[string]Service{}
		for name, protocol := range map[string]string{"a": c.a, "b": c.b} {
			services[name] = Service{Address: "127.0.0.1:7000", First: 7001, Last: 7009, Protocol: protocol}
		}
		err := Config{Bind: "127.0.0.1:7946", Services: services}.checkPorts()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q and %q: %v, want %q", c.a, c.b, err, c.want)
		}
		for name, s := range services { // the ring has both
			s.Address, s.First, s.Last = "127.0.0.1:7946", 0, 0
			services[name] = s
			break
		}
		if err := (Config{Bind: "127.0.0.1:7946", Services: services}).checkPorts(); err == nil {
			t.Errorf("%q and %q: the port of the ring was given away", c.a, c.b)
		}
	}
}

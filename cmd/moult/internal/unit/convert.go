package unit

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"moult/store/bundle/placeholder"
	"moult/store/durable"
)

// Options are what no unit says.
type Options struct {
	Class     string            // "": from the unit's name
	Root, Key string            // files of the cluster
	State     string            // the folder of the state; "": that of the unit
	Services  map[string]string // where callers reach it, host:port by name
	Version   uint64            // the number of what runs
}

// Result is a configuration.
type Result struct {
	Text  string
	Notes []string // what it has not, each with its place
}

// job is a conversion under way.
type job struct {
	Options
	name  string
	lines []line
	notes []string
	env   map[string]string

	settings [][2]string // of the agent block: name and HCL
	rlimits  [][2]string
	health   [][2]string
	argv     []string
}

// Convert makes a configuration of a unit.
func Convert(s Source, o Options) (Result, error) {
	j := &job{Options: o, name: s.Name, env: map[string]string{}}
	var err error
	if j.lines, err = s.read(); err != nil {
		return Result{}, err
	}
	for _, step := range []func() error{j.specifiers, j.kind, j.environment, j.who, j.folders, j.limits, j.command, j.times, j.rest} {
		if err := step(); err != nil {
			return Result{}, err
		}
	}
	return Result{Text: j.text(s), Notes: j.notes}, nil
}

func (j *job) note(l line, format string, args ...any) {
	j.notes = append(j.notes, fmt.Sprintf("%s: %s", l, fmt.Sprintf(format, args...)))
}

// take returns what is said for a key, and forgets it.
func (j *job) take(section, key string) (found []line) {
	j.lines = slices.DeleteFunc(j.lines, func(l line) bool {
		is := l.section == section && l.key == key
		if is {
			found = append(found, l)
		}
		return is
	})
	return found
}

// last returns the last that is said for a key of the service, which is what counts.
func (j *job) last(key string) (l line, ok bool) {
	found := j.take("Service", key)
	if len(found) == 0 {
		return l, false
	}
	return found[len(found)-1], true
}

func (j *job) set(name, hcl string) { j.settings = append(j.settings, [2]string{name, hcl}) }

// specifiers fills in those of all lines that may have some.
func (j *job) specifiers() error {
	for i, l := range j.lines {
		if l.section != "Service" {
			continue
		}
		v, err := specifiers(l.value, j.name)
		if err != nil {
			return l.fault("%w", err)
		}
		j.lines[i].value = v
	}
	return nil
}

// kind is how systemd sees that the software is ready.
func (j *job) kind() error {
	l, ok := j.last("Type")
	switch {
	case ok && (l.value == "notify" || l.value == "notify-reload"):
		j.health = append(j.health, [2]string{"notify", "true"})
	case ok && l.value == "forking":
		j.note(l, "software must stay in the foreground under moult: change its command so that it does (nginx: -g 'daemon off;')")
	case ok && l.value != "simple" && l.value != "exec":
		return l.fault("software of this type does not run on by itself, or is known by other means: only simple, exec, notify and forking can be adopted")
	}
	if len(j.health) > 0 {
		return nil
	}
	if len(j.Services) == 0 {
		return errors.New("it is not known how to see that the software is ready: say where callers reach it, as --service NAME=HOST:PORT")
	}
	j.health = append(j.health, [2]string{"tcp", "true"}, [2]string{"service", quote(j.names()[0])})
	return nil
}

func (j *job) names() []string { return slices.Sorted(maps.Keys(j.Services)) }

func (j *job) environment() error {
	for _, l := range j.take("Service", "Environment") {
		pairs, err := words(l.value)
		if err != nil {
			return l.fault("%w", err)
		}
		for _, pair := range pairs {
			name, value, ok := strings.Cut(pair, "=")
			if !ok || !isName(name) {
				return l.fault("%q is not NAME=VALUE", pair)
			}
			j.env[name] = value
		}
	}
	for _, l := range j.take("Service", "EnvironmentFile") { // it goes over Environment=
		path, may := strings.CutPrefix(l.value, "-")
		if strings.ContainsAny(path, "*?[") {
			j.note(l, "a pattern is not followed: put what its files say into env")
			continue
		}
		text, err := durable.ReadFile(path, maxFile)
		if errors.Is(err, fs.ErrNotExist) && may {
			continue
		}
		if err != nil && may {
			j.note(l, "it cannot be read: %v: put what it says into env", err)
			continue
		}
		if err != nil {
			return l.fault("%w", err)
		}
		if err := j.file(path, string(text)); err != nil {
			return err
		}
	}
	return nil
}

// file takes what a file of an environment sets.
func (j *job) file(path, text string) error {
	n := 0
	for one := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		n++
		one = strings.TrimSpace(one)
		if one == "" || strings.ContainsAny(one[:1], "#;") {
			continue
		}
		name, value, ok := strings.Cut(one, "=")
		if name = strings.TrimSpace(name); !ok || !isName(name) {
			return fmt.Errorf("%s: line %d is not NAME=VALUE", path, n)
		}
		value = strings.TrimSpace(value)
		if strings.ContainsAny(value, `"'\`) {
			parts, err := words(strings.ReplaceAll(value, " ", "\\s"))
			if err != nil {
				return fmt.Errorf("%s: line %d: %w", path, n, err)
			}
			value = strings.Join(parts, "")
		}
		j.env[name] = value
	}
	return nil
}

func (j *job) who() error {
	user, hasUser := j.last("User")
	group, hasGroup := j.last("Group")
	if hasUser && user.value != "root" && user.value != "0" {
		j.set("user", quote(user.value))
	} else if hasUser {
		j.note(user, "user names whom the programs are kept from root by; without it they are the agent's own user")
	}
	if hasGroup && len(j.settings) > 0 {
		j.set("group", quote(group.value))
	} else if hasGroup {
		j.note(group, "a group takes a user")
	}
	if all := j.take("Service", "SupplementaryGroups"); len(all) > 0 && len(j.settings) > 0 {
		var groups []string
		for _, l := range all {
			groups = append(groups, strings.Fields(l.value)...)
		}
		j.set("supplementary_groups", list(groups))
	} else if len(all) > 0 {
		j.note(all[0], "supplementary groups take a user")
	}
	if l, ok := j.last("DynamicUser"); ok && yes(l.value) {
		j.note(l, "a user that is there only while the unit runs cannot own a state: make one (`useradd --system`), give it the state, and say user")
	}
	return nil
}

func yes(v string) bool { return slices.Contains([]string{"yes", "true", "on", "1"}, v) }

// folders are where the software begins, and its state.
func (j *job) folders() error {
	if l, ok := j.last("WorkingDirectory"); ok {
		switch dir, may := strings.CutPrefix(l.value, "-"); {
		case dir == "~":
			j.note(l, "the user's home is not looked up: say working_dir")
		case !filepath.IsAbs(dir):
			return l.fault("%q is no absolute path", dir)
		default:
			if may {
				j.note(l, "under moult the folder must be there")
			}
			j.set("working_dir", quote(dir))
		}
	} else {
		j.set("working_dir", quote("/")) // as for systemd
	}
	states := j.take("Service", "StateDirectory")
	for i, l := range states {
		for k, dir := range strings.Fields(l.value) {
			dir, link, _ := strings.Cut(dir, ":")
			if link != "" {
				j.note(l, "nobody makes the link %s", link)
			}
			if j.State == "" && i == 0 && k == 0 {
				j.State = filepath.Join("/var/lib", dir)
			} else if filepath.Join("/var/lib", dir) != j.State {
				j.note(l, "a node has one state, %s: what is in /var/lib/%s is not upgraded with it, and stays where it is", j.State, dir)
			}
		}
	}
	if j.State == "" {
		return fmt.Errorf("unit %s has no StateDirectory=: say where the software's state is, by --state FOLDER", j.name)
	}
	return nil
}

// limits are what the software is held to.
func (j *job) limits() error {
	for _, l := range slices.Clone(j.lines) {
		name, ok := strings.CutPrefix(l.key, "Limit")
		if l.section != "Service" || !ok {
			continue
		}
		l, _ := j.last(l.key)
		if l.key == "" {
			continue // said twice, and taken
		}
		name = strings.ToLower(name)
		if !slices.Contains([]string{"as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nofile", "nproc", "sigpending", "stack"}, name) {
			j.note(l, "agent.hcl has no such limit")
			continue
		}
		soft, hard, two := strings.Cut(l.value, ":")
		if two && soft != hard {
			j.note(l, "a limit is hard and soft at once: %s is taken", hard)
			soft = hard
		}
		n, err := size(soft)
		if d, spanErr := span(soft); name == "cpu" && spanErr == nil {
			n, err = uint64(d/time.Second), nil
		}
		switch {
		case soft == "infinity":
			j.rlimits = append(j.rlimits, [2]string{name, `"unlimited"`})
		case err != nil:
			return l.fault("%w", err)
		default:
			j.rlimits = append(j.rlimits, [2]string{name, strconv.FormatUint(n, 10)})
		}
	}
	if l, ok := j.last("UMask"); ok {
		j.set("umask", quote(l.value))
	} else {
		j.set("umask", quote("0022")) // as for systemd
	}
	if l, ok := j.last("OOMScoreAdjust"); ok {
		n, err := strconv.Atoi(l.value)
		if err != nil {
			return l.fault("%w", err)
		}
		j.set("oom_score", strconv.Itoa(n))
	}
	if l, ok := j.last("MemoryMax"); ok && l.value != "infinity" {
		if n, err := size(l.value); err != nil {
			j.note(l, "%v: say memory_max", err)
		} else {
			j.set("memory_max", strconv.FormatUint(n, 10))
		}
	}
	if l, ok := j.last("CPUWeight"); ok {
		if n, err := strconv.ParseUint(l.value, 10, 64); err != nil || n == 0 {
			j.note(l, "say cpu_weight, 1 to 10000")
		} else {
			j.set("cpu_weight", strconv.FormatUint(n, 10))
		}
	}
	return nil
}

// command is how the software is started.
func (j *job) command() error {
	all := j.take("Service", "ExecStart")
	if len(all) != 1 {
		return fmt.Errorf("unit %s has %d lines ExecStart=, want one", j.name, len(all))
	}
	l := all[0]
	text := strings.TrimLeft(l.value, "-@:+!|")
	prefix := l.value[:len(l.value)-len(text)]
	argv, err := words(text)
	if err != nil {
		return l.fault("%w", err)
	}
	if slices.Contains(argv, ";") {
		return l.fault("it has several commands, want one")
	}
	if strings.Contains(prefix, "@") && len(argv) > 1 {
		j.note(l, "the program is called by the name of its file, not %q", argv[1])
		argv = slices.Delete(argv, 1, 2)
	}
	for _, p := range []struct{ char, means string }{
		{"-", "software that ends is started again in any case"}, {"+", "it has no more rights than the other programs"},
		{"!", "it has no more rights than the other programs"}, {"|", "no login shell runs it"},
	} {
		if strings.Contains(prefix, p.char) {
			j.note(l, "%s: %s", p.char, p.means)
		}
	}
	if !strings.Contains(prefix, ":") {
		argv = fill(argv, j.env, func(name string) { j.note(l, "the variable %s is not set in the unit: nothing stands for it", name) })
	}
	if len(argv) == 0 || argv[0] == "" {
		return l.fault("it names no program")
	}
	j.argv = argv
	return nil
}

// times are those of health checks.
func (j *job) times() error {
	both, _ := j.last("TimeoutSec")
	for _, t := range []struct {
		key, field string
		usual      time.Duration
	}{{"TimeoutStopSec", "drain_timeout", 90 * time.Second}, {"TimeoutStartSec", "healthy_deadline", 90 * time.Second}} {
		l, ok := j.last(t.key)
		if !ok {
			l, ok = both, both.key != ""
		}
		d := t.usual // of systemd
		if ok {
			var err error
			if d, err = span(l.value); errors.Is(err, errEndless) || err == nil && d == 0 {
				j.note(l, "%s must have an end: it is 1h", t.field)
				d = time.Hour
			} else if err != nil {
				return l.fault("%w", err)
			}
		}
		j.health = append(j.health, [2]string{t.field, quote(d.String())})
	}
	return nil
}

// silent are keys that describe a unit to people.
var silent = map[string]bool{"Unit.Description": true, "Unit.Documentation": true}

// because says of keys why agent.hcl has nothing like them.
var because = []struct{ pattern, why string }{
	{`^Service\.ExecStartPre$|^Service\.ExecCondition$`, "run it in the program's start, or once by hand"},
	{`^Service\.ExecStartPost$`, "a release's hook post_start is the like"},
	{`^Service\.ExecStop$`, "software is ended by SIGTERM; a release's hook pre_stop is the like"},
	{`^Service\.ExecReload$`, "nothing is reloaded: a release is how software is changed"},
	{`^Service\.(KillSignal|FinalKillSignal|RestartKillSignal)$`, "software is ended by SIGTERM, and by SIGKILL after drain_timeout"},
	{`^Service\.KillMode$`, "the first process gets SIGTERM, and all of its session is ended with it"},
	{`^Service\.(Restart.*|StartLimit.*|SuccessExitStatus)$`, "software that ends is started again in any case"},
	{`^Service\.(WatchdogSec|WatchdogSignal)$`, "a release's health check is the like"},
	{`^Service\.(RuntimeDirectory|CacheDirectory|LogsDirectory|ConfigurationDirectory).*`, "no agent makes such a folder: make it by tmpfiles.d"},
	{`^Service\.(Standard.*|Syslog.*|Log.*)$`, "its output is in log/node.log of the data folder"},
	{`^Service\.(PIDFile|BusName|NotifyAccess)$`, "the agent knows the software as the process that it has started"},
	{`^Service\.(Sockets|FileDescriptorStoreMax)$|^Socket\.`, `attach = "inherit" gives software the socket of a service`},
	{`^Service\.(Delegate.*|Slice|Tasks.*|Memory(High|Low|Min|Swap|Limit|Accounting).*|CPU.*|IO.*|Nice|IOScheduling.*|OOMPolicy)$`, "agent.hcl has memory_max, cpu_weight, rlimits and oom_score"},
	{`^Service\.(Protect.*|Private.*|Restrict.*|NoNewPrivileges|Capability.*|AmbientCapabilities|SystemCall.*|Lock.*|Read.*|Write.*|Inaccessible.*|Bind.*|Remove.*|Exec(Search|Paths).*|NoExec.*|Device.*|TemporaryFileSystem|Root.*|Keyring.*|MemoryDenyWriteExecute|SecureBits|IPAddress.*|UtmpIdentifier|StateDirectoryMode|Proc.*)$`, "it holds nothing of moult's, unless the agent's own unit says it; user is what else holds the software"},
	{`^Unit\.`, "say it in the agent's unit, which systemd starts"},
}

// rest says what has not been taken.
func (j *job) rest() error {
	for _, l := range j.lines {
		key := l.section + "." + l.key
		if l.section == "Install" || silent[key] || strings.HasPrefix(l.section, "X-") || strings.HasPrefix(l.key, "X-") {
			continue
		}
		why := "agent.hcl has nothing like it"
		for _, b := range because {
			if regexp.MustCompile(b.pattern).MatchString(key) {
				why = b.why
				break
			}
		}
		j.note(l, "%s", why)
	}
	j.place()
	return nil
}

// swap puts a text in the place of an old one that is not a part of a longer name or number, nor
// behind what not says.
func swap(word, old, with string, not func(before string) bool) string {
	part := func(text string, at int) bool {
		return at >= 0 && at < len(text) && (text[at] >= 0x80 || text[at] == '-' || text[at] == '.' || text[at] >= '0' && text[at] <= '9' || isName(text[at:at+1]))
	}
	for at := 0; old != ""; {
		next := strings.Index(word[at:], old)
		if next < 0 {
			break
		}
		if at += next; part(word, at-1) || part(word, at+len(old)) || not(word[:at]) {
			at++
			continue
		}
		word = word[:at] + with + word[at+len(old):]
		at += len(with)
	}
	return word
}

func anywhere(string) bool { return false }

// elsewhere reports that what follows is the port of another host: none that means this machine.
func elsewhere(before string) bool {
	rest, ok := strings.CutSuffix(before, ":")
	host := rest[strings.LastIndexAny(rest, `"'=/,;@ `)+1:]
	return ok && host != "" && !slices.Contains([]string{"*", "localhost", "127.0.0.1", "0.0.0.0", "[::]", "[::1]"}, host)
}

// place puts placeholders into the command for the state and the services, where it names them.
func (j *job) place() {
	for i, word := range j.argv {
		word = quote(word)
		word = swap(word, strings.Trim(quote(j.State), `"`), placeholder.Of(placeholder.State), anywhere)
		for _, name := range j.names() {
			word = swap(word, j.Services[name], placeholder.Of(placeholder.Service+name), anywhere)
			if _, port, err := net.SplitHostPort(j.Services[name]); err == nil {
				word = swap(word, port, placeholder.Of(placeholder.Service+name+placeholder.Port), elsewhere)
			}
		}
		j.argv[i] = word
	}
	all := strings.Join(j.argv, " ")
	if !strings.Contains(all, placeholder.Of(placeholder.State)) {
		j.notes = append(j.notes, fmt.Sprintf("ExecStart: no word of the command names the state, %s: each version has a copy of its own, so write %s where the program is told of it (an environment variable, or a file of settings that names another, may have to become an argument)", j.State, placeholder.Of(placeholder.State)))
	}
	for _, name := range j.names() {
		if !strings.Contains(all, "${"+placeholder.Service+name) {
			j.notes = append(j.notes, fmt.Sprintf("ExecStart: no word of the command names %s: the agent answers there, and the software is to listen elsewhere: write %s (or its .host and .port) where the program is told of it, or say attach = \"inherit\" for a program that takes its socket from systemd", j.Services[name], placeholder.Of(placeholder.Service+name)))
		}
	}
}

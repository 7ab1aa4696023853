package unit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"

	"moult/store/durable"
)

// Source is a unit: its name, and its files in the order in which they count.
type Source struct {
	Name  string
	Files []string
	PID   int // of its first process; 0: it does not run, or that is not known
}

// Find asks systemd for a unit's files.
func Find(ctx context.Context, name string) (Source, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return Source{}, fmt.Errorf("find unit %s: systemd does not run here: name its file by --unit-file", name)
	}
	cmd := exec.CommandContext(ctx, "systemctl", "show", "--property=Id,FragmentPath,DropInPaths,MainPID,LoadState,NeedDaemonReload", "--", name)
	out, err := cmd.Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return Source{}, fmt.Errorf("systemctl show %s: %w: %s", name, err, bytes.TrimSpace(e.Stderr))
	}
	if err != nil {
		return Source{}, fmt.Errorf("systemctl show %s: %w", name, err)
	}
	return shown(name, out)
}

// shown reads what systemctl shows.
func shown(name string, out []byte) (s Source, err error) {
	if len(out) > maxAnswer {
		return s, fmt.Errorf("systemctl show %s: it says more than %d bytes", name, maxAnswer)
	}
	said := map[string]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[key] = value
	}
	if said["FragmentPath"] == "" {
		return s, fmt.Errorf("systemd has no file of unit %s (it is %q): name the unit with its suffix, such as nginx.service", name, said["LoadState"])
	}
	if said["NeedDaemonReload"] == "yes" {
		return s, fmt.Errorf("the files of unit %s have changed since systemd read them: `systemctl daemon-reload` first", name)
	}
	s.Name, s.Files = said["Id"], append([]string{said["FragmentPath"]}, strings.Fields(said["DropInPaths"])...)
	_, err = fmt.Sscan(said["MainPID"], &s.PID)
	return s, err
}

// FromFile is a unit whose file is named, with the drop-ins in the folder beside it
// (NAME.service.d, and before that those of the unit's template and of all services).
func FromFile(path, name string) (Source, error) {
	if name == "" {
		name = filepath.Base(path)
	}
	s := Source{Name: name, Files: []string{path}}
	dir, drops := filepath.Dir(path), map[string]string{} // a drop-in of the unit itself goes over another of its name
	folders := []string{"service.d"}
	if prefix, _, ok := strings.Cut(name, "@"); ok {
		folders = append(folders, prefix+"@.service.d")
	}
	for _, folder := range append(folders, name+".d") {
		found, err := filepath.Glob(filepath.Join(dir, folder, "*.conf"))
		if err != nil {
			return s, err
		}
		for _, file := range found {
			drops[filepath.Base(file)] = file
		}
	}
	for _, base := range slices.Sorted(maps.Keys(drops)) {
		s.Files = append(s.Files, drops[base])
	}
	return s, nil
}

// line is one assignment.
type line struct {
	section, key, value, place string
}

func (l line) String() string { return fmt.Sprintf("%s: %s=%s", l.place, l.key, l.value) }

// fault is an error at the place of a line.
func (l line) fault(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", l.place, l.key, fmt.Errorf(format, args...))
}

// read reads all files. An empty value takes back what was said for its key before.
func (s Source) read() ([]line, error) {
	if !strings.HasSuffix(s.Name, ".service") {
		return nil, fmt.Errorf("unit %q: want a service, such as nginx.service", s.Name)
	}
	if len(s.Files) > maxFiles {
		return nil, fmt.Errorf("unit %s has %d files, the most is %d", s.Name, len(s.Files), maxFiles)
	}
	var all []line
	for _, file := range s.Files {
		text, err := durable.ReadFile(file, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read unit %s: %w: name its file as it is", s.Name, err)
		}
		if err != nil {
			return nil, fmt.Errorf("read unit %s: %w", s.Name, err)
		}
		lines, err := parse(file, text)
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			if l.value == "" {
				all = slices.DeleteFunc(all, func(was line) bool { return was.section == l.section && was.key == l.key })
				continue
			}
			all = append(all, l)
		}
	}
	return all, nil
}

func parse(file string, text []byte) ([]line, error) {
	plain, at := places(string(text))
	options, err := unit.DeserializeOptions(strings.NewReader(plain))
	if err != nil {
		return nil, fmt.Errorf("%s: it is no unit file: %w", file, err)
	}
	if len(at) != len(options) {
		return nil, fmt.Errorf("%s: it is no unit file: %d lines assign something, and %d assignments were read", file, len(at), len(options))
	}
	var lines []line
	for i, o := range options {
		lines = append(lines, line{o.Section, o.Name, joined(o.Value), fmt.Sprintf("%s:%d", file, at[i])})
	}
	return lines, nil
}

// places are the numbers of the lines on which assignments begin, and plain is the text without
// comments, which may stand within a value of several lines.
func places(text string) (plain string, at []int) {
	var b strings.Builder
	n, goesOn := 0, false
	for l := range strings.Lines(text) {
		n++
		l = strings.TrimRight(l, "\r\n")
		first := strings.TrimSpace(l)
		if first == "" && !goesOn || strings.HasPrefix(first, "#") || strings.HasPrefix(first, ";") {
			continue
		}
		if !goesOn && first[0] != '[' {
			at = append(at, n)
		}
		goesOn = strings.HasSuffix(l, `\`)
		b.WriteString(l + "\n")
	}
	return b.String(), at
}

// joined is a value that goes over several lines.
func joined(value string) string {
	parts := strings.Split(value, "\\\n")
	for i, p := range parts {
		parts[i] = strings.TrimSpace(p)
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

package bundle

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"moult/store/bundle/placeholder"
)

var olderPattern = regexp.MustCompile(`\$\{service\.([^}]*)\}`)

// words checks what holds for every command line.
func (v *validator) words(path string, argv []string) {
	v.fail(len(argv) > MaxArgs, path, "%d arguments, the most is %d", len(argv), MaxArgs)
	v.fail(len(argv) > 0 && argv[0] == "", path+"[0]", "empty: want the program to run")
	for i, arg := range argv[:min(len(argv), MaxArgs)] {
		path := fmt.Sprintf("%s[%d]", path, i)
		v.fail(len(arg) > MaxArgBytes, path, "%d bytes, the most is %d", len(arg), MaxArgBytes)
		v.fail(!utf8.ValidString(arg) || strings.ContainsRune(arg, 0), path, "not UTF-8 without zero bytes")
	}
}

// argv checks a command line. Services that it names must be declared. Without
// Placeholders any other ${…} but ${state} is the program's own and is handed on as it is.
func (v *validator) argv(path string, argv []string, c *ClassUpgrade) {
	v.words(path, argv)
	for i, arg := range argv[:min(len(argv), MaxArgs)] {
		path := fmt.Sprintf("%s[%d]", path, i)
		var named []string
		if c.Placeholders {
			names, err := placeholder.Names(arg)
			v.fail(err != nil, path, "%v", err)
			v.fail(slices.Contains(names, placeholder.Args) && (i == 0 || arg != placeholder.Of(placeholder.Args)), path,
				"%.80q: %s must be an argument by itself, after the program", arg, placeholder.Of(placeholder.Args))
			for _, name := range names {
				if service, ok := placeholder.ServiceOf(name); ok {
					named = append(named, service)
				}
			}
		} else {
			for _, m := range olderPattern.FindAllStringSubmatch(arg, -1) {
				named = append(named, m[1])
			}
		}
		for _, name := range named {
			_, ok := c.Services[name]
			v.fail(!ok, path, "it names service %.40q, but the class has no service %.40q", name, name)
		}
	}
}

// Lower takes Command and Health.Exec in the form of package placeholder, and leaves
// them in the older form if that can say the same, so that agents of an older moult
// read it.
func (c *ClassUpgrade) Lower() {
	c.Placeholders = true
	if c.Placeholders = c.needsPlaceholders(); c.Placeholders {
		return
	}
	for _, argv := range [][]string{c.Command, c.Health.Exec} {
		for i, arg := range argv {
			argv[i], _ = older(arg)
		}
	}
}

// needsPlaceholders reports whether something that is said in the form of package
// placeholder cannot be said in the older one.
func (c *ClassUpgrade) needsPlaceholders() bool {
	return slices.ContainsFunc(slices.Concat(c.Command, c.Health.Exec), func(arg string) bool {
		_, ok := older(arg)
		return !ok
	})
}

// older returns a text of the form of package placeholder in the older form; ok is
// false where that cannot say it.
func older(text string) (s string, ok bool) {
	ok = true
	s, err := placeholder.Fill(text, func(name string) (string, error) {
		service, is := placeholder.ServiceOf(name)
		ok = ok && (name == placeholder.State || is && name == placeholder.Service+service)
		return placeholder.Mark(name), nil
	})
	literal := strings.Split(s, placeholder.Mark("")[:1])
	for i := range literal {
		if i%2 == 1 {
			literal[i] = placeholder.Of(literal[i])
			continue
		}
		ok = ok && !strings.Contains(literal[i], placeholder.Of(placeholder.State)) && !strings.Contains(literal[i], "${"+placeholder.Service)
	}
	return strings.Join(literal, ""), ok && err == nil
}

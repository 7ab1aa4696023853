// Package placeholder is the form of a text in which something is filled in when a
// program starts, for only its node's agent knows it:
//
//	${state}              the folder of the software's state
//	${service.NAME}       where the software listens, host:port
//	${service.NAME.host}  and both apart
//	${service.NAME.port}
//	${vars.NAME}          what the node's operator has set
//	${args}               alone as one argument: all that the operator has set, none or many
//
// $${ stands for ${ itself, and $$${ for a $ before that; any other ${ is refused. In
// between stands what the program sees.
package placeholder

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Names of placeholders, and how those of one thing among many begin and end.
const (
	State   = "state"
	Args    = "args"
	Service = "service."
	Vars    = "vars."
	Host    = ".host"
	Port    = ".port"
)

var (
	name    = regexp.MustCompile(`^(state|args|service\.[a-z][a-z0-9-]{0,31}(\.host|\.port)?|vars\.[A-Za-z_][A-Za-z0-9_-]{0,62})$`)
	varName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,62}$`)
)

// ValidName reports whether s has the form of a placeholder's name.
func ValidName(s string) bool { return name.MatchString(s) }

// ValidVar reports whether s may name a variable.
func ValidVar(s string) bool { return varName.MatchString(s) }

// ServiceOf returns the service that a placeholder's name speaks of; ok is false where
// it speaks of none.
func ServiceOf(name string) (service string, ok bool) {
	service, ok = strings.CutPrefix(name, Service)
	service, _, _ = strings.Cut(service, ".")
	return service, ok
}

// Of is the placeholder of a name.
func Of(name string) string { return "${" + name + "}" }

// Escape returns the text that fills in to s.
func Escape(s string) string { return strings.ReplaceAll(s, "${", "$${") }

// mark begins and ends a name in a text that is being made. No text of a command has it.
const mark = "\x00"

// Mark is a name among texts that Marked takes.
func Mark(name string) string { return mark + name + mark }

// Marked makes placeholders of what is marked in a text, and escapes the rest.
func Marked(s string) (string, error) {
	parts := strings.Split(s, mark)
	var b strings.Builder
	for i, part := range parts {
		switch {
		case len(parts)%2 == 0, i%2 == 1 && !ValidName(part):
			return "", errors.New("a text must not have zero bytes")
		case i%2 == 1 && part == Args && (len(parts) != 3 || parts[0]+parts[2] != ""):
			return "", errors.New("${args} must be a text by itself, for it stands for many arguments")
		case i%2 == 1:
			b.WriteString(Of(part))
		case i < len(parts)-1 && strings.HasSuffix(part, "$"):
			return "", fmt.Errorf("a $ cannot stand right before %s", Of(parts[i+1]))
		default:
			b.WriteString(Escape(part))
		}
	}
	return b.String(), nil
}

// Fill returns text with each placeholder replaced by what value says of its name. An
// error of value, and text that is not of the form, is an error.
func Fill(text string, value func(name string) (string, error)) (string, error) {
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			b.WriteString(text)
			return b.String(), nil
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text = text[i+len("${"):]
			continue
		}
		b.WriteString(text[:i])
		name, rest, closed := strings.Cut(text[i+len("${"):], "}")
		if !closed || !ValidName(name) {
			return "", fmt.Errorf("%.80q is no placeholder; write $${ for a text that the program should see as ${", text[i:])
		}
		v, err := value(name)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
		text = rest
	}
}

// Names lists the placeholders of a text, in order.
func Names(text string) (names []string, err error) {
	_, err = Fill(text, func(name string) (string, error) {
		names = append(names, name)
		return "", nil
	})
	return names, err
}

// VarsOf lists the variables of a command line.
func VarsOf(argv []string) (vars []string) {
	for _, arg := range argv {
		names, _ := Names(arg)
		for _, name := range names {
			if v, is := strings.CutPrefix(name, Vars); is {
				vars = append(vars, v)
			}
		}
	}
	return vars
}

// Plain returns what a text without placeholders stands for; ok is false where it has some.
func Plain(text string) (s string, ok bool) {
	names, err := Names(text)
	if err != nil || len(names) > 0 {
		return "", false
	}
	s, err = Fill(text, nil)
	return s, err == nil
}

// UnsetError says that a variable has no value.
type UnsetError struct{ Name string }

func (e *UnsetError) Error() string { return Of(Vars+e.Name) + " has no value" }

// Settle fills in of a command line what a node's operator has set: ${args}, which must
// stand alone, becomes args, which may have placeholders of the agent's, and ${vars.NAME}
// the text of vars. The agent's placeholders stay. A variable that is not set is an
// UnsetError.
func Settle(argv, args []string, vars map[string]string) ([]string, error) {
	var out []string
	for _, arg := range argv {
		if arg == Of(Args) {
			out = append(out, args...)
			continue
		}
		s, err := Fill(arg, func(name string) (string, error) {
			v, is := strings.CutPrefix(name, Vars)
			value, set := vars[v]
			if is && !set {
				return "", &UnsetError{Name: v}
			}
			if is {
				return value, nil
			}
			return Mark(name), nil
		})
		if err == nil {
			s, err = Marked(s)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

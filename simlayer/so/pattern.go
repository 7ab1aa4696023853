package so

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// piece is a part of a pattern or a template: a literal, or a {name}.
type piece struct {
	literal string
	name    string // of a parameter; "" for a literal
	rest    bool   // {name...}
}

var (
	paramName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	token     = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
)

// parseParts cuts text at its {name}s.
func parseParts(text string) ([]piece, error) {
	var parts []piece
	for text != "" {
		open := strings.IndexAny(text, "{}")
		if open < 0 {
			return append(parts, piece{literal: text}), nil
		}
		if text[open] == '}' {
			return nil, errors.New(`"}" without "{"`)
		}
		if open > 0 {
			parts = append(parts, piece{literal: text[:open]})
		}
		inside, after, closed := strings.Cut(text[open+1:], "}")
		if !closed {
			return nil, errors.New(`"{" without "}"`)
		}
		name, rest := strings.CutSuffix(inside, "...")
		if !paramName.MatchString(name) {
			return nil, fmt.Errorf("{%s}: want {name} or {name...}, a name of letters, digits and _", inside)
		}
		parts = append(parts, piece{name: name, rest: rest})
		text = after
	}
	return parts, nil
}

// splitLabel cuts "METHOD /path". Method "" stands for "*".
func splitLabel(label string) (method, path string, err error) {
	method, path, ok := strings.Cut(label, " ")
	if len(label) > MaxPatternBytes {
		return "", "", fmt.Errorf("%d bytes, at most %d", len(label), MaxPatternBytes)
	}
	if !ok || !strings.HasPrefix(path, "/") || !token.MatchString(method) {
		return "", "", errors.New(`want a method or *, one space, and a path that starts with /, as in "GET /v2/keys/{key}"`)
	}
	if method == "*" {
		method = ""
	}
	return method, path, nil
}

// pattern matches paths, segment by segment.
type pattern []piece

func parsePattern(path string) (pattern, error) {
	var p pattern
	seen := map[string]bool{}
	segments := strings.Split(path[1:], "/")
	for i, segment := range segments {
		parts, err := parseParts(segment)
		if err != nil {
			return nil, err
		}
		if len(parts) == 0 {
			parts = []piece{{}}
		}
		if len(parts) > 1 {
			return nil, fmt.Errorf("segment %q: {name} must be a whole segment", segment)
		}
		one := parts[0]
		if one.name == "" {
			if one.literal, err = url.PathUnescape(one.literal); err != nil || strings.ContainsAny(segment, "?#") {
				return nil, fmt.Errorf("segment %q: not a path segment", segment)
			}
		}
		if one.rest && i != len(segments)-1 {
			return nil, fmt.Errorf("{%s...} must come last", one.name)
		}
		if one.name != "" && seen[one.name] {
			return nil, fmt.Errorf("{%s} comes twice", one.name)
		}
		seen[one.name] = true
		p = append(p, one)
	}
	return p, nil
}

// match returns the parameters of a path in its escaped form, and whether the
// path matches. The value of a {name} is decoded; that of a {name...} is not,
// since %2F and / would become one.
func (p pattern) match(path string) (params map[string]any, ok bool) {
	if !strings.HasPrefix(path, "/") {
		return nil, false
	}
	path = path[1:]
	for i, want := range p {
		if want.rest {
			if path == "" {
				return nil, false
			}
			params = with(params, want.name, path)
			return params, true
		}
		segment, after, more := strings.Cut(path, "/")
		if more == (i == len(p)-1) {
			return nil, false
		}
		path = after
		value, err := url.PathUnescape(segment)
		switch {
		case err != nil:
			return nil, false
		case want.name == "":
			if value != want.literal {
				return nil, false
			}
		case value == "":
			return nil, false
		default:
			params = with(params, want.name, value)
		}
	}
	return params, true
}

func with(params map[string]any, name, value string) map[string]any {
	if params == nil {
		params = map[string]any{}
	}
	params[name] = value
	return params
}

// covers reports whether p matches every path that q matches.
func (p pattern) covers(q pattern) bool {
	for i, a := range p {
		if i >= len(q) {
			return false
		}
		b := q[i]
		if a.rest {
			return len(q) > i+1 || b.name != "" || b.literal != ""
		}
		switch {
		case b.rest:
			return false
		case a.name == "" && (b.name != "" || a.literal != b.literal):
			return false
		case a.name != "" && b.name == "" && b.literal == "":
			return false
		}
	}
	return len(p) == len(q)
}

func (p pattern) names() []string {
	var names []string
	for _, one := range p {
		if one.name != "" {
			names = append(names, one.name)
		}
	}
	return names
}

// template makes text out of parameters.
type template []piece

// parseTemplate checks that every {name} is one of names.
func parseTemplate(text string, names []string) (template, error) {
	if len(text) > MaxPatternBytes {
		return nil, fmt.Errorf("%d bytes, at most %d", len(text), MaxPatternBytes)
	}
	parts, err := parseParts(text)
	if err != nil {
		return nil, err
	}
	for _, one := range parts {
		if one.name != "" && !slices.Contains(names, one.name) {
			return nil, fmt.Errorf("{%s}: no such parameter; there are %q", one.name, names)
		}
	}
	return parts, nil
}

// parseTextTemplate is parseTemplate for a whole text, in which {{ and }} stand
// for braces.
func parseTextTemplate(text string, names []string) (template, error) {
	var parts template
	for text != "" {
		at := strings.IndexAny(text, "{}")
		if at < 0 {
			return append(parts, piece{literal: text}), nil
		}
		end := at + 2
		if at > 0 {
			parts = append(parts, piece{literal: text[:at]})
		}
		if doubled := strings.HasPrefix(text[at+1:], text[at:at+1]); doubled {
			parts = append(parts, piece{literal: text[at : at+1]})
		} else {
			if i := strings.IndexByte(text, '}'); i > at {
				end = i + 1
			}
			end = min(end, len(text))
			one, err := parseTemplate(text[at:end], names)
			if err != nil {
				return nil, fmt.Errorf("%w; {{ and }} stand for braces", err)
			}
			parts = append(parts, one...)
		}
		text = text[end:]
	}
	return parts, nil
}

// queryPart is one name=value of a template's query.
type queryPart struct {
	name  string // in its escaped form
	value template
}

// urlTemplate makes the path and the query of a call.
type urlTemplate struct {
	segments []template
	query    []queryPart
}

func parseURLTemplate(text string, names []string) (urlTemplate, error) {
	var u urlTemplate
	path, query, hasQuery := strings.Cut(text, "?")
	for segment := range strings.SplitSeq(path[1:], "/") {
		t, err := parseTemplate(segment, names)
		if err != nil {
			return u, err
		}
		for _, one := range t {
			if _, err := url.PathUnescape(one.literal); err != nil || strings.ContainsAny(one.literal, "#") {
				return u, fmt.Errorf("segment %q: not a path segment", segment)
			}
		}
		u.segments = append(u.segments, t)
	}
	if !hasQuery {
		return u, nil
	}
	var err error
	u.query, err = parsePairs(query, names)
	return u, err
}

// parsePairs reads the template of a query, or of a body that is written like one.
func parsePairs(text string, names []string) (pairs []queryPart, err error) {
	for pair := range strings.SplitSeq(text, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if _, err := url.QueryUnescape(name); err != nil || name == "" || strings.ContainsAny(name, "{}#") {
			return nil, fmt.Errorf("query %q: want name={value}", pair)
		}
		t, err := parseTemplate(value, names)
		if err != nil {
			return nil, err
		}
		for _, one := range t {
			if _, err := url.QueryUnescape(one.literal); err != nil || one.rest && len(t) > 1 || strings.Contains(one.literal, "#") {
				return nil, fmt.Errorf("query %q: not a query value", pair)
			}
		}
		pairs = append(pairs, queryPart{name, t})
	}
	return pairs, nil
}

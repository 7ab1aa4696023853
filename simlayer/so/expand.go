package so

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"
)

// unusable refuses a call whose parameter does not fit its place in a template.
func unusable(name, format string, args ...any) error {
	return Fail(http.StatusBadRequest, nil, "the call cannot be translated: parameter %q %s", name, fmt.Sprintf(format, args...))
}

// number returns the text of a number.
func number(v any) (text string, ok bool) {
	switch v.(type) {
	case int, float64, *big.Int, json.Number:
		data, err := gojq.Marshal(v)
		return string(data), err == nil
	}
	return "", false
}

// text returns the parameter's value as it is put into templates.
func text(name string, value any) (string, error) {
	s := ""
	switch v := value.(type) {
	case nil:
		return "", unusable(name, "is missing")
	case string:
		s = v
	case bool:
		s = strconv.FormatBool(v)
	default:
		var ok bool
		if s, ok = number(v); !ok {
			return "", unusable(name, "is neither text, a number nor a boolean")
		}
	}
	if len(s) > maxValueBytes {
		return "", unusable(name, "has %d bytes, at most %d", len(s), maxValueBytes)
	}
	return s, nil
}

// expand makes the template's text; encode is applied to every parameter. filled: none
// may be empty.
func (t template) expand(params map[string]any, filled bool, encode func(string) string) (string, error) {
	if len(t) == 1 && t[0].name == "" {
		return t[0].literal, nil
	}
	var b strings.Builder
	for _, one := range t {
		if one.name == "" {
			b.WriteString(one.literal)
			continue
		}
		s, err := text(one.name, params[one.name])
		if err != nil {
			return "", err
		}
		if s == "" && filled {
			return "", unusable(one.name, "is empty")
		}
		if one.rest {
			if _, err := url.PathUnescape(s); err != nil || strings.ContainsAny(s, "?#") {
				return "", unusable(one.name, "is not a percent-encoded path")
			}
			b.WriteString(s)
			continue
		}
		b.WriteString(encode(s))
	}
	return b.String(), nil
}

// expandText makes a body. A parameter in it may be empty, and long.
func (t template) expandText(params map[string]any) (string, error) {
	var b strings.Builder
	for _, one := range t {
		piece := one.literal
		if one.name != "" {
			var ok bool
			if piece, ok = params[one.name].(string); !ok {
				var err error
				if piece, err = text(one.name, params[one.name]); err != nil {
					return "", err
				}
			}
		}
		if b.Len()+len(piece) > MaxBody {
			return "", Fail(http.StatusBadGateway, nil, "the call cannot be translated: a text would have more than %d bytes", MaxBody)
		}
		b.WriteString(piece)
	}
	return b.String(), nil
}

// expand makes the URL of a call. Only its path and query are set.
func (u urlTemplate) expand(params map[string]any) (*url.URL, error) {
	var path strings.Builder
	for _, segment := range u.segments {
		s, err := segment.expand(params, true, url.PathEscape)
		if err != nil {
			return nil, err
		}
		for piece := range strings.SplitSeq(s, "/") {
			// They would be taken for a walk through the tree of paths.
			if plain, err := url.PathUnescape(piece); err != nil || plain == "." || plain == ".." {
				return nil, Fail(http.StatusBadRequest, err, "the call cannot be translated: its path would have a segment %q", piece)
			}
		}
		path.WriteByte('/')
		path.WriteString(s)
	}
	out := &url.URL{RawPath: path.String()}
	var err error
	if out.Path, err = url.PathUnescape(out.RawPath); err != nil {
		return nil, Fail(http.StatusBadRequest, err, "the call cannot be translated: its path would be %q", out.RawPath)
	}
	out.RawQuery, err = expandPairs(u.query, params)
	return out, err
}

// expandPairs makes a query, or a body that is written like one.
func expandPairs(pairs []queryPart, params map[string]any) (string, error) {
	var all []string
	size := 0
	add := func(name, value string, err error) error {
		all = append(all, name+"="+value)
		if size += len(name) + len(value) + 2; err == nil && size > MaxBody {
			err = Fail(http.StatusBadRequest, nil, "the call cannot be translated: a query or a form would have more than %d bytes", MaxBody)
		}
		return err
	}
	for _, q := range pairs {
		only := q.value[:min(len(q.value), 1)]
		var err error
		switch {
		case len(q.value) == 1 && only[0].name != "" && params[only[0].name] == nil:
		case len(q.value) == 1 && only[0].rest:
			list, ok := params[only[0].name].([]any)
			if !ok || len(list) > maxList {
				return "", unusable(only[0].name, "is no array of at most %d values", maxList)
			}
			for _, item := range list {
				value, failed := text(only[0].name, item)
				if err = add(q.name, url.QueryEscape(value), failed); err != nil {
					break
				}
			}
		default:
			value, failed := q.value.expand(params, false, url.QueryEscape)
			err = add(q.name, value, failed)
		}
		if err != nil {
			return "", err
		}
	}
	return strings.Join(all, "&"), nil
}

// edit sets a header, or removes it.
type edit struct {
	name  string // canonical
	value template
}

func applyEdits(h http.Header, edits []edit, params map[string]any) error {
	for _, e := range edits {
		switch {
		case len(e.value) == 0 && e.name == "User-Agent":
			h[e.name] = []string{""} // see noAgent
			continue
		case len(e.value) == 0:
			h.Del(e.name)
			continue
		}
		value, err := e.value.expand(params, false, func(s string) string { return s })
		if err != nil {
			return err
		}
		if strings.ContainsFunc(value, control) {
			return Fail(http.StatusBadRequest, nil, "the call cannot be translated: header %s would have a control character", e.name)
		}
		h.Set(e.name, value)
	}
	return nil
}

// control reports whether r must not stand in a header.
func control(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

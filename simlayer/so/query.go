package so

import (
	"net/http"
	"net/url"
	"strings"
)

// query is the query of a call, or a body that is written like one, read when it is first asked for. Unlike url.Values it
// has all that was sent: a semicolon, or a percent sign that begins no %XX, is part of
// the text where it stands.
type query struct {
	raw   string
	pairs []queryPair
	read  bool
	// As expressions see them, once one asks.
	first, every map[string]any

	judged bool // the rules went by what is in it
	// doubtful: servers read it in several ways. Some cut at semicolons, some leave
	// out what others take as it stands.
	doubtful bool
}

type queryPair struct{ name, value string }

func (q *query) list() []queryPair {
	if q.read {
		return q.pairs
	}
	q.read = true
	for one := range strings.SplitSeq(q.raw, "&") {
		if one == "" {
			continue
		}
		name, value, _ := strings.Cut(one, "=")
		q.doubtful = q.doubtful || strings.Contains(one, ";")
		q.pairs = append(q.pairs, queryPair{q.decode(name), q.decode(value)})
	}
	return q.pairs
}

// decode undoes the escapes of a name or a value.
func (q *query) decode(text string) string {
	if plain, err := url.QueryUnescape(text); err == nil {
		return plain
	}
	q.doubtful = true
	var b strings.Builder
	for text != "" {
		size := 1
		if text[0] == '%' && len(text) >= 3 {
			size = 3
		}
		plain, err := url.QueryUnescape(text[:size])
		if err != nil {
			size, plain = 1, "%"
		}
		b.WriteString(plain)
		text = text[size:]
	}
	return b.String()
}

func (q *query) has(name string) bool {
	q.judged = true
	for _, one := range q.list() {
		if one.name == name {
			return true
		}
	}
	return false
}

// keeps refuses a query that is to go on as it stands although the rules went by it, and
// the node may read something else.
func (q *query) keeps(what string) error {
	if q.judged && q.doubtful {
		return Fail(http.StatusBadRequest, nil, "the call cannot be translated: its %s has a semicolon, or a percent sign that begins no %%XX, and servers read such a %[1]s in several ways; send %%3B or %%25", what)
	}
	return nil
}

// firsts has the first value of each name.
func (q *query) firsts() map[string]any {
	if q.first == nil {
		q.first = map[string]any{}
		for _, one := range q.list() {
			if _, there := q.first[one.name]; !there {
				q.first[one.name] = one.value
			}
		}
	}
	return q.first
}

// all has every value of each name.
func (q *query) all() map[string]any {
	if q.every == nil {
		q.every = map[string]any{}
		for _, one := range q.list() {
			list, _ := q.every[one.name].([]any)
			q.every[one.name] = append(list, one.value)
		}
	}
	return q.every
}

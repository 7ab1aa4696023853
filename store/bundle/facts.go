package bundle

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fact says how a node finds out a number that it publishes of itself. It is asked for by
// HTTP or by Exec.
type Fact struct {
	// HTTP is a path of Service whose answer has the number: the JSON value that Pointer
	// (RFC 6901) names, all of it where that is empty; or, in Prometheus' text format, the
	// sum of the series that Prometheus (see Series) selects.
	HTTP       string `json:"http,omitempty"`
	Service    string `json:"service,omitempty"`
	Pointer    string `json:"pointer,omitempty"`
	Prometheus string `json:"prometheus,omitempty"`
	// Exec is argv, run in the unpacked artifact's folder, that prints the number and
	// exits 0. It finds the addresses of services in its environment.
	Exec []string `json:"exec,omitempty"`
	// Every is the time between two questions, Timeout how long an answer may take.
	Every   Duration `json:"every"`
	Timeout Duration `json:"timeout"`
	// Step is by how much the number must differ from what was published last to be
	// published anew; 0: at all.
	Step float64 `json:"step,omitempty"`
}

// factPattern has no hyphens: the names of facts stand in expressions.
var factPattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// ValidFact reports whether s may name a fact: a lower-case letter, then at most 31
// lower-case letters, digits and underscores.
func ValidFact(s string) bool { return factPattern.MatchString(s) }

// ValidPointer reports whether s is a JSON pointer (RFC 6901).
func ValidPointer(s string) bool {
	if len(s) > MaxHTTPPathBytes || !printable(s) || s != "" && s[0] != '/' {
		return false
	}
	for rest := s; ; {
		_, after, found := strings.Cut(rest, "~")
		if !found {
			return true
		}
		if after == "" || after[0] != '0' && after[0] != '1' {
			return false
		}
		rest = after
	}
}

// Series selects series of one metric: those that have all of Labels.
type Series struct {
	Metric string
	Labels map[string]string
}

var seriesPattern = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?$`)
var labelPattern = regexp.MustCompile(`^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*("(?:[^"\\]|\\.)*")\s*(?:,|$)`)

// ParseSeries reads a selector such as http_errors_total{code="500"}.
func ParseSeries(s string) (Series, error) {
	bad := func() (Series, error) {
		return Series{}, fmt.Errorf(`%.80q is no metric, or a metric with labels, such as http_errors_total{code="500"}`, s)
	}
	m := seriesPattern.FindStringSubmatch(s)
	if m == nil || len(s) > MaxHTTPPathBytes {
		return bad()
	}
	out := Series{Metric: m[1], Labels: map[string]string{}}
	for rest := m[2]; strings.TrimSpace(rest) != ""; {
		label := labelPattern.FindStringSubmatch(rest)
		if label == nil {
			return bad()
		}
		value, err := strconv.Unquote(label[2])
		if _, twice := out.Labels[label[1]]; err != nil || twice {
			return bad()
		}
		out.Labels[label[1]] = value
		rest = rest[len(label[0]):]
	}
	return out, nil
}

// ValidExpression reports whether s may be an expression of a schedule, as far as its
// length goes: package expr has the language.
func ValidExpression(s string) bool {
	odd := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	return len(s) <= MaxExpressionBytes && utf8.ValidString(s) && !strings.ContainsFunc(s, odd)
}

func (v *validator) facts(path string, c *ClassUpgrade) {
	v.fail(len(c.Facts) > MaxFacts, path, "%d of them, the most is %d", len(c.Facts), MaxFacts)
	for _, name := range slices.Sorted(maps.Keys(c.Facts)) {
		path, f := fmt.Sprintf("%s.%.40s", path, name), c.Facts[name]
		v.fail(!ValidFact(name), path, "%.80q is no name for a fact: want %s", name, factPattern)
		v.fail((f.HTTP != "") == (len(f.Exec) > 0), path, "want exactly one of http and exec")
		v.fail(f.HTTP == "" && f.Service+f.Pointer+f.Prometheus != "", path, "it has service, pointer or prometheus, and is not asked by http")
		if f.HTTP != "" {
			v.fail(!validPath(f.HTTP), path+".http", "%.80q, want a path such as /metrics of at most %d bytes", f.HTTP, MaxHTTPPathBytes)
			v.fail(c.Services[f.Service].Protocol != ProtocolHTTP, path+".service", "%.40q is no service of the class that speaks http", f.Service)
		}
		v.fail(!ValidPointer(f.Pointer), path+".pointer", "%.80q is no JSON pointer, such as /stats/height", f.Pointer)
		if f.Prometheus != "" {
			_, err := ParseSeries(f.Prometheus)
			v.fail(err != nil, path+".prometheus", "%v", err)
			v.fail(f.Pointer != "", path+".pointer", "set, but what prometheus selects is no JSON")
		}
		v.words(path+".exec", f.Exec)
		v.duration(path+".every", f.Every, MinFactEvery, MaxFactEvery)
		v.duration(path+".timeout", f.Timeout, 1, MaxFactTime)
		v.fail(!(f.Step >= 0) || math.IsInf(f.Step, 0), path+".step", "%v, want a number, at least 0", f.Step)
	}
}

func validPath(s string) bool {
	return strings.HasPrefix(s, "/") && len(s) <= MaxHTTPPathBytes && printable(s) && !strings.Contains(s, " ")
}

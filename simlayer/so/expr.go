package so

import (
	"regexp"
	"strings"

	"moult/simlayer/so/jq"
)

// expr is a compiled jq program with what it reads.
type expr struct {
	*jq.Program
	// body: reads the body of the message that it is about. callerBody: is about
	// a response and reads the body of the request. stepBody: reads bodies of
	// steps.
	body, callerBody, stepBody bool
	form                       bool // reads the caller's body as a form
	src                        string
}

var (
	bodyWord    = regexp.MustCompile(`\bbody\b`)
	requestBody = regexp.MustCompile(`\brequest\.body\b`)
	stepBody    = regexp.MustCompile(`\bsteps\.\w+(\[\d*\])?\.body\b`)
	stepsWord   = regexp.MustCompile(`\bsteps\b`)
	// requestPart is a mention of the request that leaves its body alone.
	requestPart = regexp.MustCompile(`\brequest\.(method|path|params|query|query_all|headers)\b`)
	formWord    = regexp.MustCompile(`(?:^|[^\w.\])?])\.form(?:_all)?\b|\brequest\.form(?:_all)?\b`)
	requestWord = regexp.MustCompile(`\brequest\b`)
)

// compile reads a jq program over a request, or over a response.
//
// Which bodies it reads is told from its text alone, so that the rule in the
// package's documentation is one that an author can apply with the eye. Where it
// errs, a body is parsed that was not needed.
func compile(src string, overResponse bool) (*expr, error) {
	program, err := jq.Compile(src)
	if err != nil {
		return nil, err
	}
	e := &expr{Program: program, src: src, form: formWord.MatchString(src)}
	bodies := len(bodyWord.FindAllString(src, -1))
	e.stepBody = bodies > 0 && stepsWord.MatchString(src)
	others := len(stepBody.FindAllString(src, -1))
	if !overResponse {
		e.body = bodies > others
		return e, nil
	}
	e.body = bodies > others+len(requestBody.FindAllString(src, -1))
	whole := len(requestWord.FindAllString(src, -1)) > len(requestPart.FindAllString(src, -1))
	e.callerBody = bodies > 0 && whole
	return e, nil
}

// mentions reports whether the program has a word.
func (e *expr) mentions(word string) bool {
	for from := 0; ; {
		i := strings.Index(e.src[from:], word)
		if i < 0 {
			return false
		}
		start, end := from+i, from+i+len(word)
		if !partOfWord(e.src, start-1) && !partOfWord(e.src, end) {
			return true
		}
		from = end
	}
}

// partOfWord reports whether a word goes on at a place of a text.
func partOfWord(text string, at int) bool {
	return at >= 0 && at < len(text) && (text[at] == '_' || text[at] >= '0' && text[at] <= '9' || text[at]|0x20 >= 'a' && text[at]|0x20 <= 'z')
}

// holds reports whether a condition holds: on any value but false and null.
func (e *expr) holds(run *jq.Run, in jq.Value) (bool, error) {
	v, ok, err := e.Eval(run, in)
	return err == nil && ok && v.True(), err
}

// tree returns the program's value as one of gojq's.
func (e *expr) tree(run *jq.Run, in jq.Value) (v any, ok bool, err error) {
	x, ok, err := e.Eval(run, in)
	if err != nil || !ok {
		return nil, false, err
	}
	v, err = x.Tree()
	return v, true, err
}

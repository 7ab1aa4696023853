// Package hclguard looks at HCL text before HCL's parser does. The parser, and
// whatever walks what it made, recurses by nesting and by operators; where the
// stack is full, Go ends the process. So every text that moult reads as HCL
// (release specs, agents' configurations, rules that a release brings) passes
// through [Check] first.
package hclguard

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	// MaxNesting bounds blocks, lists, texts and parentheses inside each other.
	// No file of moult's nests more than ten deep.
	MaxNesting = 32
	// MaxOperators bounds, in one file, the operators that expressions are made
	// of. No file of moult's needs any.
	MaxOperators = 256
)

// closers names the token that ends what a token begins.
var closers = map[hclsyntax.TokenType]hclsyntax.TokenType{
	hclsyntax.TokenOBrace:          hclsyntax.TokenCBrace,
	hclsyntax.TokenOBrack:          hclsyntax.TokenCBrack,
	hclsyntax.TokenOParen:          hclsyntax.TokenCParen,
	hclsyntax.TokenOQuote:          hclsyntax.TokenCQuote,
	hclsyntax.TokenOHeredoc:        hclsyntax.TokenCHeredoc,
	hclsyntax.TokenTemplateInterp:  hclsyntax.TokenTemplateSeqEnd,
	hclsyntax.TokenTemplateControl: hclsyntax.TokenTemplateSeqEnd,
}

// Check reports text that HCL's parser must not be given: one problem, with
// its place, or nil. It only counts; what is wrong with the text otherwise is
// for the parser to tell. Time and memory are linear in len(src), which the
// caller bounds. The lexer, which is all that is used here, does not recurse.
func Check(src []byte, filename string) hcl.Diagnostics {
	tokens, _ := hclsyntax.LexConfig(src, filename, hcl.InitialPos)
	var open []hclsyntax.TokenType // the tokens that must come, the next one last
	operators := 0
	for _, tok := range tokens {
		if closer, opens := closers[tok.Type]; opens {
			open = append(open, closer)
			if tok.Type == hclsyntax.TokenTemplateControl {
				operators++ // an if or a for goes on behind its closing brace
			}
		} else if n := len(open); n > 0 && tok.Type == open[n-1] {
			open = open[:n-1]
		} else if !plain(tok.Type) {
			operators++
		}
		if len(open) > MaxNesting || operators > MaxOperators {
			return hcl.Diagnostics{{
				Severity: hcl.DiagError,
				Summary:  "Too complicated",
				Detail:   fmt.Sprintf("A file may nest %d deep and may have %d operators.", MaxNesting, MaxOperators),
				Subject:  tok.Range.Ptr(),
			}}
		}
	}
	return nil
}

// plain reports whether the parser goes over a token without recursing. Those
// that it does not know are among them: it stops there.
func plain(t hclsyntax.TokenType) bool {
	switch t {
	case hclsyntax.TokenIdent, hclsyntax.TokenStringLit, hclsyntax.TokenQuotedLit, hclsyntax.TokenNumberLit,
		hclsyntax.TokenComma, hclsyntax.TokenDot, hclsyntax.TokenEqual, hclsyntax.TokenColon, hclsyntax.TokenNewline,
		hclsyntax.TokenComment, hclsyntax.TokenEOF, hclsyntax.TokenInvalid, hclsyntax.TokenBadUTF8:
		return true
	}
	return false
}

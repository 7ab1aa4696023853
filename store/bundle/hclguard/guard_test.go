package hclguard

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// deep are texts on which HCL's parser recurses n times.
var deep = map[string]func(n int) string{
	"lists":          func(n int) string { return "a = " + strings.Repeat("[", n) + strings.Repeat("]", n) },
	"open lists":     func(n int) string { return "a = " + strings.Repeat("[", n) },
	"objects":        func(n int) string { return "a = " + strings.Repeat("{b = ", n) + "1" + strings.Repeat("}", n) },
	"parentheses":    func(n int) string { return "a = " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n) },
	"blocks":         func(n int) string { return strings.Repeat("a {\n", n) + strings.Repeat("}\n", n) },
	"templates":      func(n int) string { return "a = " + strings.Repeat(`"${`, n) + "1" + strings.Repeat(`}"`, n) },
	"controls":       func(n int) string { return `a = "` + strings.Repeat("%{ if true }", n) + `"` },
	"negations":      func(n int) string { return "a = " + strings.Repeat("!", n) + "true" },
	"minus signs":    func(n int) string { return "a = " + strings.Repeat("-", n) + "1" },
	"conditionals":   func(n int) string { return "a = " + strings.Repeat("true ? 1 : ", n) + "2" },
	"sums":           func(n int) string { return "a = 1" + strings.Repeat(" + 1", n) },
	"calls":          func(n int) string { return "a = " + strings.Repeat("f(", n) + strings.Repeat(")", n) },
	"indexes":        func(n int) string { return "a = b" + strings.Repeat("[b", n) + strings.Repeat("]", n) },
	"closed first":   func(n int) string { return strings.Repeat("}\n", n) + "a = " + strings.Repeat("[", n) },
	"closed wrongly": func(n int) string { return "a = " + strings.Repeat("[}", n) },
	"heredocs":       func(n int) string { return "a = <<E\n" + strings.Repeat("${<<E\n", n) },
}

func TestCheck(t *testing.T) {
	for name, text := range deep {
		t.Run(name, func(t *testing.T) {
			diags := Check([]byte(text(MaxOperators+1)), "deep.hcl")
			if len(diags) != 1 || diags[0].Summary != "Too complicated" || diags[0].Subject.Filename != "deep.hcl" {
				t.Errorf("let through: %v", diags)
			}
			if diags := Check([]byte(text(MaxNesting/3)), "flat.hcl"); diags != nil {
				t.Errorf("refused at a harmless depth: %v", diags)
			}
		})
	}
}

// TestCheckLeavesTheRestToTheParser: text that is only wrong is not the
// guard's business, since the parser says more about it.
func TestCheckLeavesTheRestToTheParser(t *testing.T) {
	for name, text := range map[string]string{
		"binary":    strings.Repeat("\xff\x00\x01", 1000),
		"unclosed":  `a = "b`,
		"no value":  "a =",
		"wide":      "a = [" + strings.Repeat(`"b", `, 10000) + "]",
		"long":      strings.Repeat("a {\n  b = \"c\"\n}\n", 5000),
		"traversal": "a = b" + strings.Repeat(".c", 10000),
		"colons":    "a = {" + strings.Repeat(`b: "c", `, 10000) + "}",
	} {
		if diags := Check([]byte(text), name); diags != nil {
			t.Errorf("%s: %v", name, diags)
		}
	}
}

// TestSampleFiles: all the HCL of the project passes with room to spare.
func TestSampleFiles(t *testing.T) {
	files := 0
	err := filepath.WalkDir("../../../testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".hcl" {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		if diags := Check(src, path); diags != nil {
			t.Error(diags)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files checked: %v", files, err)
	}
}

// FuzzCheck: whatever passes, the parser survives.
func FuzzCheck(f *testing.F) {
	for _, text := range deep {
		f.Add([]byte(text(3)))
		f.Add([]byte(text(MaxNesting + 1)))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if Check(src, "fuzz.hcl") != nil {
			return
		}
		file, diags := hclsyntax.ParseConfig(src, "fuzz.hcl", hcl.InitialPos)
		if diags.HasErrors() {
			return
		}
		// Evaluation recurses too; what comes out does not matter.
		attrs, _ := file.Body.JustAttributes()
		for _, a := range attrs {
			_, _ = a.Expr.Value(nil)
		}
	})
}

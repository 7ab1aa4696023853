package child

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestLogLines(t *testing.T) {
	var l bytes.Buffer
	var last lastWords
	text := "one\r\n\n" + strings.Repeat("x", 3*maxLine) + "\ntwo \xff\npanic: three\nfour\n" + strings.Repeat("many\n", 1000) + "end"
	logLines(strings.NewReader(text), &last, slog.New(slog.NewTextHandler(&l, nil)))
	out := l.String()
	if !strings.Contains(out, "line=one\n") || !strings.Contains(out, `line="two ?"`) || !strings.Contains(out, "linesLeftOut=9") {
		t.Errorf("log %.2000s", out)
	}
	if n := strings.Count(out, "object writes\""); n > lineBurst+5 {
		t.Errorf("%d lines", n)
	}
	if last.String() != "panic: three" {
		t.Errorf("last words %q", last.String())
	}
}

package unit

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// words takes a value apart as systemd does: at spaces, with quotes and escapes.
func words(text string) (out []string, err error) {
	var word []byte
	in, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			b, n := escape(text[i+1:])
			word, in = append(word, b...), true
			i += n
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word = append(word, c)
			}
		case c == '"' || c == '\'':
			quote, in = c, true
		case strings.IndexByte(" \t\n\r", c) >= 0:
			if in {
				out = append(out, string(word))
			}
			word, in = nil, false
		default:
			word, in = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c is not closed", quote)
	}
	if in {
		out = append(out, string(word))
	}
	return out, nil
}

// escape reads what stands behind a backslash, and says how long it is. One that is not known
// stands for itself, backslash and all.
func escape(rest string) ([]byte, int) {
	if rest == "" {
		return []byte(`\`), 0
	}
	if at := strings.IndexByte(`abfnrtvs\"'`, rest[0]); at >= 0 {
		return []byte{"\a\b\f\n\r\t\v \\\"'"[at]}, 1
	}
	number := func(skip, digits, base int) ([]byte, int, bool) {
		if len(rest) < skip+digits {
			return nil, 0, false
		}
		n, err := strconv.ParseUint(rest[skip:skip+digits], base, 32)
		if err != nil || n == 0 {
			return nil, 0, false
		}
		if digits > 3 {
			return utf8.AppendRune(nil, rune(n)), skip + digits, true
		}
		return []byte{byte(n)}, skip + digits, n < 256
	}
	b, n, ok := []byte(nil), 0, false
	switch rest[0] {
	case 'x':
		b, n, ok = number(1, 2, 16)
	case 'u':
		b, n, ok = number(1, 4, 16)
	case 'U':
		b, n, ok = number(1, 8, 16)
	default:
		b, n, ok = number(0, 3, 8)
	}
	if !ok {
		return []byte{'\\', rest[0]}, 1
	}
	return b, n
}

// fill puts variables in for $NAME, where that is a whole word, and ${NAME}; those that are not
// set are nothing, as for systemd, and told to unset.
func fill(argv []string, env map[string]string, unset func(name string)) (out []string) {
	get := func(name string) string {
		v, ok := env[name]
		if !ok {
			unset(name)
		}
		return v
	}
	for i, word := range argv {
		if name, ok := strings.CutPrefix(word, "$"); ok && i > 0 && isName(name) {
			out = append(out, strings.Fields(get(name))...)
			continue
		}
		var b strings.Builder
		for word != "" {
			at := strings.IndexByte(word, '$')
			if at < 0 {
				break
			}
			b.WriteString(word[:at])
			word = word[at:]
			name, rest, closed := strings.Cut(strings.TrimPrefix(word, "${"), "}")
			switch {
			case strings.HasPrefix(word, "$$"):
				b.WriteByte('$')
				word = word[2:]
			case strings.HasPrefix(word, "${") && closed && isName(name):
				b.WriteString(get(name))
				word = rest
			default:
				b.WriteByte('$')
				word = word[1:]
			}
		}
		out = append(out, b.String()+word)
	}
	return out
}

func isName(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// specifiers fills in what systemd has a percent sign for, in a unit of a name.
func specifiers(text, name string) (string, error) {
	if !strings.Contains(text, "%") {
		return text, nil
	}
	bare := strings.TrimSuffix(name, ".service")
	prefix, instance, _ := strings.Cut(bare, "@")
	last := prefix[strings.LastIndexByte(prefix, '-')+1:]
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	short, _, _ := strings.Cut(host, ".")
	path := instance
	if path == "" {
		path = prefix
	}
	values := map[byte]string{
		'%': "%", 'n': name, 'N': bare, 'p': prefix, 'P': unescaped(prefix), 'i': instance, 'I': unescaped(instance), 'j': last, 'J': unescaped(last),
		'f': "/" + strings.TrimPrefix(unescaped(path), "/"), 'H': host, 'l': short, 'u': "root", 'U': "0", 'h': "/root",
		't': "/run", 'S': "/var/lib", 'C': "/var/cache", 'L': "/var/log", 'E': "/etc", 'T': "/tmp", 'V': "/var/tmp",
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		i++
		if i == len(text) {
			b.WriteByte('%')
			break
		}
		v, ok := values[text[i]]
		if !ok {
			return "", fmt.Errorf("%%%c is a specifier that is not known here: put what it stands for into a copy of the file, and name that by --unit-file", text[i])
		}
		if v == "" {
			return "", fmt.Errorf("%%%c has no value in unit %s: name one of its instances, as NAME@INSTANCE.service", text[i], name)
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// unescaped is a name of which systemd has made a part of a unit's name.
func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if n, err := strconv.ParseUint(s[min(i+2, len(s)):min(i+4, len(s))], 16, 8); err == nil && strings.HasPrefix(s[i:], `\x`) {
			b.WriteByte(byte(n))
			i += 3
		} else if s[i] == '-' {
			b.WriteByte('/')
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

var errEndless = errors.New("it is endless")

// span reads a time as systemd writes it: "90", "5min 20s".
func span(text string) (sum time.Duration, err error) {
	if text == "infinity" {
		return 0, errEndless
	}
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
		digits := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if digits < 0 {
			digits = len(rest)
		}
		n, err := strconv.ParseFloat(rest[:digits], 64)
		if err != nil || n > 1e9 {
			return 0, fmt.Errorf("%q is no time", text)
		}
		rest = strings.TrimLeft(rest[digits:], " ")
		end := strings.IndexFunc(rest, func(r rune) bool { return r < 'a' || r > 'z' })
		if end < 0 {
			end = len(rest)
		}
		unit, ok := spans[rest[:end]]
		if !ok {
			return 0, fmt.Errorf("%q is no time", text)
		}
		rest = rest[end:]
		sum += time.Duration(n * float64(unit))
	}
	return sum, nil
}

var spans = map[string]time.Duration{
	"": time.Second, "us": time.Microsecond, "usec": time.Microsecond, "ms": time.Millisecond, "msec": time.Millisecond,
	"s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour, "d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

// size reads an amount as systemd writes it: "512M". "infinity" is not known.
func size(text string) (uint64, error) {
	digits, unit := text, uint64(1)
	for i, suffix := range []string{"K", "M", "G", "T", "P"} {
		if s, ok := strings.CutSuffix(text, suffix); ok {
			digits, unit = s, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
	if err != nil || n > 1<<63/unit {
		return 0, fmt.Errorf("%q is no amount", text)
	}
	return n * unit, nil
}

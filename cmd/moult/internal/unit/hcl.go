package unit

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// quote is a text in HCL, in which nothing stands for anything else.
func quote(text string) string { return string(hclwrite.TokensForValue(cty.StringVal(text)).Bytes()) }

func list(texts []string) string {
	quoted := make([]string, len(texts))
	for i, t := range texts {
		quoted[i] = quote(t)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

var notOfClass = regexp.MustCompile(`[^a-z0-9]+`)

// class is the name of a unit as one of a class.
func (j *job) class() string {
	bare, _, _ := strings.Cut(strings.TrimSuffix(j.name, ".service"), "@")
	return cmp.Or(j.Class, strings.Trim(notOfClass.ReplaceAllString(strings.ToLower(bare), "-"), "-"))
}

// text is the configuration.
func (j *job) text(s Source) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by `moult adopt` of %s:\n", s.Name)
	for _, file := range s.Files {
		fmt.Fprintf(&b, "#   %s\n", file)
	}
	if len(j.notes) > 0 {
		b.WriteString("#\n# What it has not, of these:\n")
	}
	for _, n := range j.notes {
		fmt.Fprintf(&b, "# - %s\n", strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, n))
	}
	b.WriteString("agent {\n")
	assign(&b, 1, "class", quote(j.class()))
	assign(&b, 1, "root", quote(j.Root))
	if j.Key != "" {
		assign(&b, 1, "gossip_key", quote(j.Key))
	}
	for _, one := range j.settings {
		assign(&b, 1, one[0], one[1])
	}
	if len(j.env) > 0 {
		b.WriteString("  env = {\n")
		for _, name := range slices.Sorted(maps.Keys(j.env)) {
			assign(&b, 2, name, quote(j.env[name]))
		}
		b.WriteString("  }\n")
	}
	if len(j.rlimits) > 0 {
		b.WriteString("  rlimits {\n")
		for _, one := range j.rlimits {
			assign(&b, 2, one[0], one[1])
		}
		b.WriteString("  }\n")
	}
	for _, name := range j.names() {
		first, last := versions(j.Services[name])
		fmt.Fprintf(&b, "  service %s {\n    address  = %s\n    versions = \"%d-%d\"\n    protocol = \"tcp\"\n  }\n", quote(name), quote(j.Services[name]), first, last)
	}
	fmt.Fprintf(&b, "  adopt {\n    version = %d\n    command = [%s]\n    state   = %s\n    health {\n", j.Version, strings.Join(j.argv, ", "), quote(j.State))
	for _, one := range j.health {
		assign(&b, 3, one[0], one[1])
	}
	b.WriteString("    }\n  }\n}\n")
	return string(hclwrite.Format([]byte(b.String())))
}

func assign(b *strings.Builder, depth int, name, value string) {
	fmt.Fprintf(b, "%s%s = %s\n", strings.Repeat("  ", depth), name, value)
}

// versions are the ports behind a service's own, for those of its versions.
func versions(addr string) (first, last int) {
	_, text, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(text)
	const most, span = 65535, 9
	if port+span > most {
		return port - span, port - 1
	}
	return port + 1, port + span
}

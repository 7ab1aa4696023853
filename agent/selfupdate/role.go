package selfupdate

import (
	"strings"

	"moult/store/bundle"
)

// variable tells a build that another has started it as what, and which program the packaged
// one is. Without it a process is the packaged program.
const variable = "MOULT_AGENT_BUILD"

// Kinds of roles.
const (
	confirmed = "confirmed"
	onTrial   = "trial"
)

// role is as what this process runs.
type role struct {
	kind     string // "": the packaged program
	digest   bundle.Digest
	packaged string // the path of the packaged program
}

func (r role) String() string { return r.kind + " " + r.digest.String() + " " + r.packaged }

func roleOf(text string) role {
	words := strings.SplitN(text, " ", 3)
	if len(words) != 3 || words[0] != confirmed && words[0] != onTrial {
		return role{}
	}
	d, err := bundle.ParseDigest(words[1])
	if err != nil {
		return role{}
	}
	return role{kind: words[0], digest: d, packaged: words[2]}
}

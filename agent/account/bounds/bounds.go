// Package bounds is what an operator holds a node's programs to: limits of resources, the
// mask of the modes of new files, how soon the kernel ends them where memory runs out, where
// they begin, and the groups (package cgroup) that hold them together.
//
// A program that has bounds is begun by way of this binary ([Bounds.Wrap], [Main]), which
// takes them upon itself, and then becomes the program: there is no moment in which it runs
// without them, and its process is the same one. What it starts inherits them.
package bounds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"moult/agent/account/cgroup"
)

// CommandName is the hidden command of moult that becomes a program within bounds.
const CommandName = "within-bounds"

// Unlimited is no limit.
const Unlimited = ^uint64(0)

// Bounds are what programs are held to. A nil *Bounds is nothing.
type Bounds struct {
	// Limits are hard and soft limits by the name of setrlimit(2) in small letters,
	// without RLIMIT_.
	Limits map[string]uint64 `json:"limits,omitempty"`
	// Umask are the permissions that new files do not get; nil: the agent's own.
	Umask *uint32 `json:"umask,omitempty"`
	// OOMScore is oom_score_adj, -1000 to 1000; nil: the agent's own.
	OOMScore *int `json:"oom_score,omitempty"`
	// WorkingDir is where they begin; "": in the folder of their release.
	WorkingDir string `json:"working_dir,omitempty"`
	// Together are the limits of all processes of one of the Kinds.
	Together cgroup.Limits `json:"together,omitzero"`
	// Group is what holds them to these; nil: nothing.
	Group *cgroup.Group `json:"group,omitempty"`
}

// Kinds are the bounds of the programs of a node: of its software with its checks and hooks,
// of transforms, of rehearsals, and of simulation objects. Each kind has a group of its own.
type Kinds struct{ Software, Transforms, Rehearsals, Objects *Bounds }

// Kinds makes the groups, by names that begin with the node's. The error says what of them
// cannot be had here; memory then is a limit of each process, as far as that goes. Without
// bounds there are none, and groups of before hold nothing any more.
func (b *Bounds) Kinds(node string) (k Kinds, lacks error) {
	for kind, to := range map[string]**Bounds{"software": &k.Software, "transforms": &k.Transforms, "rehearsals": &k.Rehearsals, "objects": &k.Objects} {
		var together cgroup.Limits
		if b != nil {
			together = b.Together
		}
		group, err := cgroup.Open(node+"-"+kind, together)
		if err != nil {
			lacks = err // each kind lacks the same, but for what its processes have taken already
		}
		*to = b.in(group)
	}
	return k, lacks
}

// in is the bounds in a group; what that does not hold of memory is a limit of each process.
func (b *Bounds) in(g *cgroup.Group) *Bounds {
	if b == nil {
		return nil
	}
	own := *b
	own.Group = g
	if own.Together.MemoryMax > 0 && (g == nil || !g.HoldsMemory) {
		return own.And("data", own.Together.MemoryMax)
	}
	return &own
}

// Remove removes the groups in which nothing runs.
func (k Kinds) Remove() error {
	var errs []error
	for _, b := range []*Bounds{k.Software, k.Transforms, k.Rehearsals, k.Objects} {
		errs = append(errs, b.InGroup().Remove())
	}
	return errors.Join(errs...)
}

// InGroup is the group of those that have the bounds; nil for none.
func (b *Bounds) InGroup() *cgroup.Group {
	if b == nil {
		return nil
	}
	return b.Group
}

// Begin says where a program of a folder begins, and by what words it is called there.
func (b *Bounds) Begin(dir string, argv []string) (string, []string) {
	if b == nil || b.WorkingDir == "" {
		return dir, argv
	}
	if argv[0] != "" && strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) {
		argv = append([]string{filepath.Join(dir, argv[0])}, argv[1:]...)
	}
	return b.WorkingDir, argv
}

// wraps reports whether there is anything that a process takes upon itself.
func (b *Bounds) wraps() bool {
	return b != nil && (len(b.Limits) > 0 || b.Umask != nil || b.OOMScore != nil)
}

// Wrap has cmd, whose program, arguments and environment are set, begin within the bounds. What cmd.Err is,
// Start still says.
func (b *Bounds) Wrap(cmd *exec.Cmd) error {
	if !b.wraps() || cmd.Err != nil {
		return nil
	}
	text, err := json.Marshal(Bounds{Limits: b.Limits, Umask: b.Umask, OOMScore: b.OOMScore})
	if err != nil {
		return fmt.Errorf("begin %s within bounds: %w", cmd.Path, err)
	}
	cmd.Args = append([]string{"moult", CommandName, string(text), cmd.Path}, cmd.Args...)
	cmd.Path = thisProgram()
	return nil
}

// And are the bounds with one limit that is no higher than n.
func (b *Bounds) And(limit string, n uint64) *Bounds {
	more := *b
	more.Limits = maps.Clone(b.Limits)
	if more.Limits == nil {
		more.Limits = map[string]uint64{}
	}
	if was, ok := more.Limits[limit]; !ok || was > n {
		more.Limits[limit] = n
	}
	return &more
}

// Program is the file by way of which programs begin; "" for none.
func (b *Bounds) Program() string {
	if !b.wraps() {
		return ""
	}
	return thisProgram()
}

// Main is the hidden command: args are those after CommandName. It only returns where the
// program cannot begin; what it returns is what shells do then.
func Main(args []string, stderr io.Writer) int {
	const cannot = 127
	err := errors.New("agents start this command, to begin a node's programs; it is of no use by itself")
	if len(args) >= 3 {
		err = become(args[0], args[1], args[2:])
	}
	fmt.Fprintf(stderr, "moult: %s: %v\n", CommandName, err)
	return cannot
}

// Check reports what cannot be obeyed here: a limit that there is not, or that is above what
// the agent itself is held to.
func (b *Bounds) Check() error {
	if b == nil {
		return nil
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(b.Limits)) {
		id, ok := limits[name]
		if !ok {
			errs = append(errs, fmt.Errorf("rlimits: this system has no %q; it has %s", name, strings.Join(slices.Sorted(maps.Keys(limits)), ", ")))
			continue
		}
		if most, err := hard(id); err != nil {
			errs = append(errs, fmt.Errorf("rlimits: %s: %w", name, err))
		} else if b.Limits[name] > most {
			errs = append(errs, fmt.Errorf("rlimits: %s = %s: the agent itself may have no more than %s: raise that (in its unit Limit%s=%s), or say less", name, text(b.Limits[name]), text(most), strings.ToUpper(name), strings.Replace(text(b.Limits[name]), "unlimited", "infinity", 1)))
		}
	}
	if b.Umask != nil && *b.Umask > 0o777 {
		errs = append(errs, fmt.Errorf("umask = %#o: want at most 0777", *b.Umask))
	}
	if s := b.OOMScore; s != nil {
		if *s < -1000 || *s > 1000 {
			errs = append(errs, fmt.Errorf("oom_score = %d: want -1000 to 1000", *s))
		} else {
			errs = append(errs, checkScore(*s))
		}
	}
	if b.WorkingDir != "" && !filepath.IsAbs(b.WorkingDir) || strings.ContainsRune(b.WorkingDir, 0) {
		errs = append(errs, fmt.Errorf("working_dir = %q: want an absolute path", b.WorkingDir))
	}
	return errors.Join(append(errs, b.Together.Check())...)
}

func text(n uint64) string {
	if n == Unlimited {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

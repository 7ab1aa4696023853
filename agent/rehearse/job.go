package rehearse

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"moult/agent/account"
	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
	"moult/agent/control"
	"moult/gossip/view"
	"moult/store/artifact"
	"moult/store/bundle"
	"moult/transforms"
)

// Job is one rehearsal.
type Job struct {
	// Folder is where all of it is done; on the disk of the state, so that copies can
	// share blocks with it. Nobody else uses it.
	Folder string
	// Node marks the software of a rehearsal apart from the node's own.
	Node bundle.NodeID
	// From is the version that runs, and State its slot, which is only read.
	From  bundle.Version
	State string
	// Snapshot makes the copy; empty: files are copied. SnapshotDir is where it runs, and
	// Live are the addresses of the software that runs, by service.
	Snapshot    []string
	SnapshotDir string
	Live        map[string]string
	// Steps are the releases of the path, in order.
	Steps []Step
	// Software is how the last of them is started, on Slot of its version.
	Software Software
	Check    []string
	Timeout  time.Duration // 0: DefaultTimeout
	// Env is what transforms, the snapshot and the check get, Account whose they are.
	Env     []string
	Account *account.Account `json:"-"`
	As      []string         // the Account, by numbers, for processes of the rehearsal
	// Bounds are what all programs of the rehearsal are held to; nil: nothing.
	Bounds *bounds.Bounds
	// Sandbox is what transforms, the snapshot, the software, the check and the programs of objects
	// are held to, with their folders of the rehearsal; nil: none.
	Sandbox *sandbox.Sandbox
	Former  []int // users whose an earlier rehearsal may have been
	// ReserveMemory is how many bytes of the machine's memory must stay free; at least some do in any case.
	ReserveMemory int64
	// Watch is told what goes on, by one goroutine at a time, which it must not keep waiting; nil: nobody is.
	Watch func(control.RehearsalNews) `json:"-"`
}

// Step is one transform.
type Step struct {
	To        bundle.Version
	Dir       string // of the unpacked artifact
	Transform bundle.Transform
	// Future is the state of its future object; "" for none. It is only read.
	Future string
	// Complement is what was kept when the release was taken back; "" for nothing. It is only read.
	Complement string
	// Past is how callers of the version before are answered.
	Past Past
}

// Past is the object of a step that answers callers of the version before.
type Past struct {
	bundle.Simulation
	// File is what it is made of, for rules and wasm; Env a program's environment.
	File string
	Env  []string
}

// Software is what is started.
type Software struct {
	Dir        string
	Argv, Env  []string
	Health     bundle.Health
	HealthAddr string
	Services   []Service
}

// Service is one service of the software, and where it listens: at a socket that it is
// given, where it Inherits one.
type Service struct {
	Name, Protocol, Addr string
	Inherits             bool
}

// Slot is where the state of version v is made.
func (j *Job) Slot(v bundle.Version) string {
	return filepath.Join(j.Folder, "state", strconv.FormatUint(uint64(v), 10))
}

// Passed is a release on the way: what it does to the node, and where the folder of its
// software, and the files of its objects, are.
type Passed struct {
	Version bundle.Version
	bundle.ClassUpgrade
	Dir   string
	Depot *artifact.Depot
}

// Add adds a step; states are those of the node's objects, and env is a program's that answers
// callers. The snapshot is of the first step that has one, since it is written for what runs;
// the check is the last step's, and the time the longest.
func (j *Job) Add(p Passed, states *transforms.Objects, env []string) {
	s := Step{
		To: p.Version, Dir: p.Dir, Transform: p.Transform, Future: states.FutureState(p.Version), Complement: states.Complement(p.Version),
		Past: Past{Simulation: p.Past, Env: env},
	}
	if blob, ok := p.Past.Blob(); ok {
		s.Past.File = p.Depot.BlobPath(blob.Digest)
	}
	j.Steps, j.Check = append(j.Steps, s), nil
	r := p.Rehearse
	if r == nil {
		return
	}
	if len(j.Snapshot) == 0 {
		j.Snapshot, j.SnapshotDir = r.Snapshot, s.Dir
	}
	j.Check, j.Timeout = r.Check, max(j.Timeout, time.Duration(r.Timeout))
}

// Need is how many bytes of the disk must be free before.
func (j *Job) Need() (int64, error) {
	var kept []string
	for _, s := range j.Steps {
		for _, dir := range []string{s.Future, s.Complement} {
			if dir != "" {
				kept = append(kept, dir)
			}
		}
	}
	need, err := transforms.RehearsalBytes(j.State, kept...)
	return need + Reserve, err
}

// identity is an account for Resolve.
func identity(a *account.Account) []string {
	if a == nil {
		return nil
	}
	as := []string{strconv.Itoa(a.UID), strconv.Itoa(a.GID)}
	for _, g := range a.Groups {
		as = append(as, strconv.Itoa(g))
	}
	return as
}

func (j *Job) last() Step { return j.Steps[len(j.Steps)-1] }

// variable is what the address of a service is called in an environment.
// ServiceVariable is the name of the variable that tells a program of a release where a service of
// the software that runs is.
func ServiceVariable(service string) string { return variable("MOULT_SERVICE_", service) }

func variable(prefix, service string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(service, "-", "_"))
}

// mark is what every process of a rehearsal in a folder has in its environment.
func mark(folder string) string { return "MOULT_REHEARSAL=" + folder }

// Stage is one part of a rehearsal that has ended.
type Stage = control.RehearsalStage

// The stages.
const (
	StageCopy      = "copy"
	StageTransform = "transform"
	StageStart     = "start"
	StageHealth    = "health"
	StageCheck     = "check"
)

// Report is what was found.
type Report struct {
	Stages []Stage
	// Note says what the rehearsal went without; "" for nothing.
	Note string
	Took time.Duration
}

// Down is how long a node is down for what was rehearsed: the transforms, and until the
// software was well; 0, nobody knows, where it was not started.
func (r Report) Down() (d bundle.Duration) {
	if !slices.ContainsFunc(r.Stages, func(s Stage) bool { return s.Name == StageHealth }) {
		return 0
	}
	for _, s := range r.Stages {
		if s.Name == StageTransform || s.Name == StageStart || s.Name == StageHealth {
			d += s.Took
		}
	}
	return min(d, bundle.Duration(r.Took))
}

// Found is what a run came to, in a word, and why, or what it went without: r and err are
// what Run returned.
func (r Report) Found(err error) (outcome view.Outcome, reason string) {
	_, failed := errors.AsType[*Unfit](err)
	switch {
	case failed:
		return view.RehearsalFailed, err.Error()
	case err != nil:
		return view.RehearsalUnable, err.Error()
	case len(r.Stages) == 0:
		return view.RehearsalUnable, r.Note
	}
	return view.RehearsalOK, r.Note
}

// Unfit says what the release has failed at.
type Unfit struct{ Reason string }

func (u *Unfit) Error() string { return u.Reason }

func unfit(format string, args ...any) *Unfit { return &Unfit{fmt.Sprintf(format, args...)} }

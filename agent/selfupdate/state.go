package selfupdate

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"moult/store/bundle"
	"moult/store/durable"
)

// Build is one program that can be the agent.
type Build struct {
	// Release is that of moult's own releases that brought it; 0: it was handed in here.
	Release bundle.Version `json:"release,omitempty"`
	Digest  bundle.Digest  `json:"digest"`
	Path    string         `json:"-"` // its file
}

func (b Build) String() string {
	if b.Release == 0 {
		return "build " + b.Digest.Short()
	}
	return fmt.Sprintf("build %s of release %d", b.Digest.Short(), b.Release)
}

// Failure is a build that was put back.
type Failure struct {
	Build
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	// Again tells that it may be the machine's doing, and nothing was found wrong with the
	// build: the trial was interrupted.
	Again bool `json:"again,omitempty"`
	// Times counts how often the build has failed.
	Times int `json:"times"`
}

// Final reports that a build is not to be tried again by itself: something was found wrong
// with it, or so many of its trials were interrupted that it may be what interrupts them.
func (f Failure) Final() bool { return !f.Again || f.Times >= maxInterrupted }

// State is what is known of this agent's builds.
type State struct {
	// Running is this process's program. Its digest is zero where it is the packaged one,
	// and Packaged true.
	Running  Build
	Packaged bool
	// OnTrial: this process is on trial, and begins nothing that cannot be taken back.
	OnTrial bool
	// Failed are those that were put back, the oldest first; of one build the last time. Since
	// is when a build was confirmed last.
	Failed []Failure
	Since  time.Time
	// Problem says why state.json is not gone by; "" where it is.
	Problem string
}

// Find returns the failure of a build.
func (s State) Find(d bundle.Digest) (Failure, bool) {
	for _, f := range s.Failed {
		if f.Digest == d {
			return f, true
		}
	}
	return Failure{}, false
}

// document is what state.json keeps.
type document struct {
	// Packaged is the program that Confirmed has superseded.
	Packaged  bundle.Digest `json:"packaged,omitzero"`
	Confirmed *Build        `json:"confirmed,omitempty"`
	Since     time.Time     `json:"since,omitzero"` // when the last trial went well
	// Starts counts how often in a row the confirmed build was started and not yet up.
	Starts int       `json:"starts,omitempty"`
	Trial  *trial    `json:"trial,omitempty"`
	Failed []Failure `json:"failed,omitempty"`
}

// trial is one that has begun, and not ended.
type trial struct {
	Build
	Deadline bundle.Duration `json:"deadline"`
	Begun    time.Time       `json:"begun"`
}

// stateFormat is the newest form: see the package doc.
const stateFormat = 1

type stateFile struct {
	Format int             `json:"format"`
	State  json.RawMessage `json:"state"`
	Sum    bundle.Digest   `json:"sum"`
}

func stateSum(format int, body []byte) bundle.Digest {
	return bundle.Sum(fmt.Appendf(nil, "builds of the agent, format %d\n%s", format, body))
}

func (d document) encode() ([]byte, error) {
	body, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(stateFile{Format: 1, State: body, Sum: stateSum(1, body)})
	return append(b, '\n'), err
}

func decode(b []byte) (d document, err error) {
	var f stateFile
	if err := durable.StrictJSON(b, &f); err != nil {
		return d, err
	}
	if f.Sum != stateSum(f.Format, f.State) {
		return d, errors.New("its checksum does not match its content")
	}
	if f.Format > stateFormat {
		return d, fmt.Errorf("it has format %d, and this moult reads up to %d", f.Format, stateFormat)
	}
	if err := durable.StrictJSON(f.State, &d); err != nil {
		return document{}, err
	}
	return d, nil
}

// fail notes that a build was put back.
func (d *document) fail(f Failure) {
	kept := d.Failed[:0:0]
	for _, g := range d.Failed {
		if g.Digest == f.Digest {
			f.Times = g.Times
		} else {
			kept = append(kept, g)
		}
	}
	f.Times++
	f.Reason = bound(f.Reason)
	f.At = f.At.UTC().Truncate(time.Millisecond)
	kept = append(kept, f)
	d.Failed = kept[max(len(kept)-maxFailed, 0):]
}

// forgive forgets what was noted of builds.
func (d *document) forgive(which func(Failure) bool) {
	kept := d.Failed[:0:0]
	for _, g := range d.Failed {
		if !which(g) {
			kept = append(kept, g)
		}
	}
	d.Failed = kept
}

package software

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"

	"moult/agent/account"
	"moult/agent/process"
	"moult/simlayer"
	"moult/simlayer/attach"
	"moult/store/bundle"
	"moult/store/durable"
)

// RecordFile is the file of the data folder that names the running software:
// JSON with the field "handle", a process.Handle.
const RecordFile = "process.json"

// record is what the next agent must know to take the software over. It is a
// file of its own, so that it survives the loss of the database.
type record struct {
	Version  bundle.Version    `json:"version"`
	Handle   process.Handle    `json:"handle"`
	Backends map[string]string `json:"backends"`
	// Inherited are the listening sockets that it was given.
	Inherited []simlayer.Inherited `json:"inherited,omitempty"`
	// Egress is the address of the proxy that the software was given: the next
	// agent must answer there.
	Egress string `json:"egress"`
	// EgressSecret is what that proxy wants; "" where all may call by it.
	EgressSecret string `json:"egress_secret,omitempty"`
	// Plan is how the software was started. The next agent may have lost the
	// manifest that says it.
	Plan Plan `json:"plan"`
	// Leaving: the software has been told, by its hook, that it is to be stopped, or has none.
	// It is stopped from then on, whatever happens.
	Leaving bool `json:"leaving,omitempty"`
	// As is whose the software is, and so its checks, whoever is named by now. An older
	// moult writes none.
	As *as `json:"as,omitempty"`
	// Sum is of all the rest: a bit that the disk has flipped must lead neither callers
	// nor a signal elsewhere. An older moult writes none.
	Sum bundle.Digest `json:"sum"`
}

// sealed is the record with its sum.
func (r record) sealed() (record, error) {
	r.Sum = bundle.Digest{}
	data, err := json.Marshal(r)
	r.Sum = bundle.Sum(data)
	return r, err
}

// as is an account, or none: the agent's own user.
type as struct {
	Account *account.Account `json:"account"`
}

// account is whose the recorded software is; now where that is not recorded.
func (r record) account(now *account.Account) *account.Account {
	if r.As == nil {
		return now
	}
	return r.As.Account
}

// names reports whether the record names a process. It may have ended since.
func (r record) names() bool { return r.Handle.PID != 0 }

func (s *Software) save(r record) error {
	r, err := r.sealed()
	if err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(s.cfg.Data, RecordFile), data, 0o600); err != nil {
		return fmt.Errorf("record the running software: %w", err)
	}
	s.record = r
	return nil
}

func parseRecord(text []byte) (r record, err error) {
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	if !r.Sum.IsZero() && r.Sum != bundle.Sum(unsealed(text, r.Sum)) {
		err = errors.New("its checksum does not match its content")
	}
	return r, err
}

// unsealed is the text of a record as its sum was taken, byte for byte: another moult may
// have written fields that this one does not know.
func unsealed(text []byte, sum bundle.Digest) []byte {
	field := func(d bundle.Digest) []byte {
		value, _ := json.Marshal(d) // it cannot fail
		return append([]byte(`"sum":`), value...)
	}
	at := bytes.LastIndex(text, field(sum))
	if at < 0 {
		return nil
	}
	return slices.Concat(text[:at], field(bundle.Digest{}), text[at+len(field(sum)):])
}

// Left is what an earlier agent has left of the software.
type Left struct {
	record    record
	processes []int
}

// Find reads the record of a data folder, and looks whether the software that it
// names still runs. A record that cannot be read names none: what runs all the same
// is stopped by its marker before other software starts.
func Find(data string, log *slog.Logger) Left {
	var l Left
	text, err := durable.ReadFile(filepath.Join(data, RecordFile), maxRecord)
	if err == nil {
		l.record, err = parseRecord(text)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			log.Warn("record of the running software not read", "err", err)
		}
		return Left{}
	}
	if !l.record.names() {
		return l
	}
	proc, err := process.Adopt(l.record.Handle, process.Spec{Log: log})
	if errors.Is(err, process.ErrGone) {
		return l
	}
	if err == nil {
		_ = proc.Close() // it was only looked at
	}
	l.processes = family(l.record.Handle.PID)
	return l
}

// Version is that of the software that runs, or that ran last; 0 where none is
// recorded.
func (l Left) Version() bundle.Version {
	if !l.record.names() {
		return 0
	}
	return l.record.Version
}

// Processes are those among which the sockets of software that still runs are, its
// first process first; none where none runs.
func (l Left) Processes() []int { return l.processes }

// Inherited are the listening sockets that software that still runs was given.
func (l Left) Inherited() []simlayer.Inherited {
	if len(l.processes) == 0 {
		return nil
	}
	return l.record.Inherited
}

// Egress is the address of the proxy that software which still runs was given; ""
// where there is none.
func (l Left) Egress() string {
	if len(l.processes) == 0 {
		return ""
	}
	return l.record.Egress
}

// EgressSecret is what software which still runs was told to show to the proxy at Egress;
// "" where that asks for nothing.
func (l Left) EgressSecret() string {
	if len(l.processes) == 0 {
		return ""
	}
	return l.record.EgressSecret
}

// family returns the processes among which the software's sockets are.
func family(pid int) []int {
	pids, err := attach.Family(pid)
	if err != nil {
		return []int{pid}
	}
	return pids
}

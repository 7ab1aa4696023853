package transforms

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"

	"moult/store/bundle"
)

var (
	// ErrLater is returned where the program asked, by exit 21, to be tried
	// again another time.
	ErrLater = errors.New("the transform asks to be tried later")
	// ErrOldChanged is returned where the old slot, or the future object's state,
	// was not left as it was.
	ErrOldChanged = errors.New("the old state has changed while it was transformed")
)

// ExitLater is the exit status of a program that wants to be tried later.
const ExitLater = 21

// Failed says how a transform failed. The new slot must not be published.
type Failed struct {
	From, To bundle.Version
	Argv     []string // empty for the copy
	// Exit is the program's exit status; -1 where it did not start or was killed.
	Exit int
	// Reason is one line.
	Reason string
	// Own says that the release is at fault: its program, or what that or the copy in its
	// place has made. Else the machine may be, which lacked something, as room on its disk.
	Own bool
	// Output is the end of what the program wrote, at most 64 KiB.
	Output string
	// Err is what lies beneath, such as ErrOldChanged; or nil.
	Err error
}

func (f *Failed) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "transform %d -> %d", f.From, f.To)
	if len(f.Argv) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(f.Argv, " "))
	}
	fmt.Fprintf(&b, ": %s", f.Reason)
	if f.Output != "" {
		fmt.Fprintf(&b, "; its last output: %s", lastLines(f.Output, maxErrorTail))
	}
	return b.String()
}

// LastOutput is the end of what the program wrote, in few lines; "" for nothing.
func (f *Failed) LastOutput() string { return strings.TrimSpace(lastLines(f.Output, maxErrorTail)) }

// Unstartable reports of an error of a program's start that the program itself is the
// cause, and not what the machine is short of.
func Unstartable(err error) bool {
	var e *exec.Error
	if errors.As(err, &e) {
		return true // not in PATH
	}
	var p *fs.PathError
	if !errors.As(err, &p) || p.Op != "fork/exec" && p.Op != "stat" {
		return false
	}
	for _, one := range []error{syscall.ENOENT, syscall.EACCES, syscall.ENOEXEC, syscall.ENOTDIR, syscall.ELOOP, syscall.E2BIG} {
		if errors.Is(p.Err, one) {
			return true
		}
	}
	return false
}

// Unwrap returns Err.
func (f *Failed) Unwrap() error { return f.Err }

// lastLines returns the end of s, whole lines where that leaves any, in at
// most limit bytes.
func lastLines(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	s = s[len(s)-limit:]
	if _, rest, ok := strings.Cut(s, "\n"); ok && rest != "" {
		s = rest
	}
	return "… " + strings.ToValidUTF8(s, "?")
}

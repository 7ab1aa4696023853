package transforms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"moult/agent/account"
	"moult/store/bundle"
	"moult/store/durable"
	"moult/transforms/stray"
)

// Protection is how the old slot is kept from the transform program.
type Protection int

// The ways of protection; see the package documentation.
const (
	// ProtectAuto takes ProtectMount where it works, else ProtectCopy.
	ProtectAuto Protection = iota
	// ProtectMount shows the old slot through a read-only mount.
	ProtectMount
	// ProtectCopy shows a throw-away copy of the old slot.
	ProtectCopy
)

// Runner runs transforms. The zero Runner works. It may be used by several
// goroutines at once if Output may.
type Runner struct {
	// Log gets the program's output by lines, up to a bound; nil: none.
	Log *slog.Logger
	// Output gets all that the program writes; nil: none.
	Output io.Writer
	// Protect is for those who must have one of the two.
	Protect Protection
}

// Job is one transform to be run. The software of Old must be stopped.
type Job struct {
	Spec bundle.Transform
	// Dir is the folder of the unpacked new artifact, where Spec.Exec runs.
	Dir string
	// Old is the old slot; empty for an install. New is the empty folder that
	// Slots.Prepare made.
	Old, New string
	// Future is the state of the future object of To, which must have ended;
	// empty where it has none. Past is the empty folder that Slots.PreparePast
	// made; empty where the past object of To keeps no state.
	Future, Past string
	From, To     bundle.Version
	// Env is the program's environment, "NAME=value" each, besides moult's own.
	// Nothing is inherited from the agent.
	Env []string
	// Account is whose the program is; nil: the agent's. Old and Future must be its,
	// as New and Past are.
	Account *account.Account
}

// Result is what the new slot holds.
type Result struct {
	Objects int   // regular files
	Bytes   int64 // their lengths
}

// Run makes New from Old, and Past from Old and Future. On error New and Past
// hold anything, and must not be published; Old and Future are as they were, or
// the error is ErrOldChanged. When Run returns, nothing that it started still
// runs.
//
// Errors: ErrLater, a *Failed, or what ended ctx.
func (r Runner) Run(ctx context.Context, j Job) (Result, error) {
	if err := j.check(); err != nil {
		return Result{}, j.failed("cannot begin: "+err.Error(), err)
	}
	run, cancel := j.withTimeout(ctx)
	defer cancel()
	before, err := j.fingerprint()
	if err != nil {
		return Result{}, j.failed("read the old state: "+err.Error(), err)
	}
	if len(j.Spec.Exec) == 0 {
		err = j.copy(run)
	} else {
		err = r.exec(run, j)
	}
	// The old slot is looked at whatever came out: that it changed is the
	// graver news.
	after, fpErr := j.fingerprint()
	if fpErr != nil || after != before {
		return Result{}, j.oldChanged(err, fpErr, before, after)
	}
	if cause := context.Cause(ctx); cause != nil {
		return Result{}, fmt.Errorf("transform %d -> %d stopped: %w", j.From, j.To, cause)
	}
	if err != nil {
		return Result{}, err
	}
	u, err := inspect(j.New)
	if err != nil {
		return Result{}, j.failed("the new slot is not usable: "+err.Error(), err)
	}
	all := u
	if j.Past != "" {
		past, err := inspect(j.Past)
		if err != nil {
			return Result{}, j.failed("the state of the past object is not usable: "+err.Error(), err)
		}
		all.disk += past.disk
	}
	if over := j.overDisk(all); over != nil {
		return Result{}, j.failed(over.Error(), over)
	}
	return Result{Objects: u.objects, Bytes: u.bytes}, nil
}

func (j Job) check() error {
	var known []string
	for _, dir := range []string{j.Old, j.New, j.Future, j.Past} {
		if dir == "" {
			continue
		}
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return fmt.Errorf("%q is not a clean absolute path", dir)
		}
		for _, other := range known {
			if inside(other, dir) || inside(dir, other) {
				return fmt.Errorf("the folders %s and %s lie in one another", other, dir)
			}
		}
		known = append(known, dir)
	}
	for _, dir := range j.made() {
		empty, err := isEmpty(dir)
		if err != nil {
			return err
		}
		if !empty {
			return fmt.Errorf("%s, which is to be made, is not empty", dir)
		}
	}
	return nil
}

// made lists the folders that the transform fills.
func (j Job) made() []string {
	if j.Past == "" {
		return []string{j.New}
	}
	return []string{j.New, j.Past}
}

// given lists the folders that the transform reads.
func (j Job) given() []string {
	var all []string
	for _, dir := range []string{j.Old, j.Future} {
		if dir != "" {
			all = append(all, dir)
		}
	}
	return all
}

func (j Job) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	d := time.Duration(j.Spec.Timeout)
	if d <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("not done after %s (transform.timeout)", d))
}

// fingerprints are of the old slot and of the future object's state.
type fingerprints struct{ old, future fingerprint }

func (j Job) fingerprint() (f fingerprints, err error) {
	if j.Old != "" {
		f.old, err = fingerprintOf(j.Old)
	}
	if j.Future != "" && err == nil {
		f.future, err = fingerprintOf(j.Future)
	}
	return f, err
}

func (j Job) failed(reason string, err error) *Failed {
	return &Failed{From: j.From, To: j.To, Argv: j.Spec.Exec, Exit: -1, Reason: reason, Err: err}
}

// oldChanged reports that the old state is not what it was, or cannot be read
// any more, over whatever else went wrong.
func (j Job) oldChanged(err, readErr error, before, after fingerprints) error {
	where := j.Old
	if before.old == after.old && before.future != after.future {
		where = j.Future
	}
	f := j.failed("", errors.Join(ErrOldChanged, readErr))
	var prior *Failed
	if errors.As(err, &prior) {
		f.Exit, f.Output = prior.Exit, prior.Output
	}
	f.Reason = fmt.Sprintf("%v: something wrote to %s; make sure that no other process uses it, and check it before the node runs on it again", ErrOldChanged, where)
	return f
}

func (j Job) overDisk(u usage) error {
	if j.Spec.DiskMax > 0 && u.disk > j.Spec.DiskMax {
		return fmt.Errorf("the new state takes %s on disk, more than transform.disk_max, %s", size(u.disk), size(j.Spec.DiskMax))
	}
	return nil
}

// copy is the transform of a release that brings no program.
func (j Job) copy(ctx context.Context) error {
	if j.Old == "" {
		return nil
	}
	u, err := inspect(j.Old)
	if err != nil {
		return j.failed(err.Error(), err)
	}
	if err := j.overDisk(u); err != nil {
		return j.failed(err.Error(), err)
	}
	if err := CheckSpace(j.New, u.disk+diskReserve); err != nil {
		return j.failed(err.Error(), err)
	}
	if err := copyTree(ctx, j.Old, j.New, 0); err != nil {
		return j.failed(err.Error(), err)
	}
	return nil
}

// exec runs the release's program with what it is given protected.
func (r Runner) exec(ctx context.Context, j Job) error {
	if err := stopStrays(j.New, j.Account); err != nil {
		return j.failed("an earlier run of the transform still runs: "+err.Error(), err)
	}
	if len(j.given()) == 0 {
		return r.program(ctx, j, shown{}, false)
	}
	if r.Protect != ProtectCopy {
		err := r.program(ctx, j, shown{old: j.Old, future: j.Future}, true)
		if !errors.Is(err, errNoMount) {
			return err
		}
		if r.Protect == ProtectMount {
			return j.failed(err.Error(), err)
		}
		r.logger().Info("transform gets a copy of the old state", "from", j.From, "to", j.To, "why", err.Error())
	}
	var copies shown
	err := j.throwAwayCopies(ctx, &copies)
	if err == nil {
		err = r.program(ctx, j, copies, false)
	}
	for _, dir := range []string{copies.old, copies.future} {
		if dir == "" {
			continue
		}
		if rmErr := removeTree(dir); rmErr != nil {
			// What is left is cleared by the next OpenSlots; it only takes room.
			r.logger().Warn("copy of the old state left behind", "folder", dir, "err", rmErr)
		}
	}
	return err
}

// shown is where the program sees what it is given; empty: it is given none.
type shown struct{ old, future string }

// throwAwayCopies makes copies of what the program is given. It says in to what
// it has begun, also on error.
func (j Job) throwAwayCopies(ctx context.Context, to *shown) error {
	scratch := filepath.Join(filepath.Dir(j.New), oldPrefix+slotName(j.To))
	var need int64 = diskReserve
	for _, dir := range j.given() {
		u, err := inspect(dir)
		if err != nil {
			return j.failed("make a throw-away copy of the old state: "+err.Error(), err)
		}
		need += u.disk
		if dir == j.Old {
			need += u.disk // the new slot takes as much
		}
	}
	err := CheckSpace(j.New, need)
	if err == nil && j.Old != "" {
		to.old = scratch
		err = throwAwayCopy(ctx, j.Old, to.old, j.Account)
	}
	if err == nil && j.Future != "" {
		to.future = scratch + "-" + string(FutureObject)
		err = throwAwayCopy(ctx, j.Future, to.future, j.Account)
	}
	if err != nil {
		return j.failed("make a throw-away copy of the old state: "+err.Error(), err)
	}
	return nil
}

func throwAwayCopy(ctx context.Context, from, to string, who *account.Account) error {
	if err := removeTree(to); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	if err := who.Give(to); err != nil {
		return err
	}
	return copyTree(ctx, from, to, 0o222)
}

// environment is the program's, s being what it is given.
func (j Job) environment(s shown) []string {
	env := append([]string{}, j.Env...)
	env = append(env,
		"MOULT_OLD="+s.old, "MOULT_NEW="+j.New,
		fmt.Sprintf("MOULT_FROM=%d", j.From), fmt.Sprintf("MOULT_TO=%d", j.To))
	if s.future != "" {
		env = append(env, "MOULT_FUTURE_STATE="+s.future)
	}
	if j.Past != "" {
		env = append(env, "MOULT_PAST_STATE="+j.Past)
	}
	return env
}

// program runs the program once, s being what it sees of the old state.
func (r Runner) program(ctx context.Context, j Job, s shown, mount bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	cmd := exec.CommandContext(ctx, j.Spec.Exec[0], j.Spec.Exec[1:]...)
	cmd.Dir = j.Dir
	cmd.Env = j.environment(s)
	var last tail
	lines := &lineLogger{log: r.logger().With("from", j.From, "to", j.To)}
	out := []io.Writer{&last, lines}
	if r.Output != nil {
		out = append(out, r.Output)
	}
	cmd.Stdout = io.MultiWriter(out...)
	cmd.Stderr = cmd.Stdout
	cmd.WaitDelay = pipeGrace

	watched := j.watchDisk(ctx, cancel)
	c := confinement{memoryMax: j.Spec.MemoryMax, newSlot: j.New, account: j.Account}
	if mount {
		c.readOnly = j.given()
	}
	err := runConfined(cmd, c)
	killed := context.Cause(ctx)
	cancel(nil)
	<-watched
	lines.flush()
	if errors.Is(err, errNoMount) {
		return err
	}
	return j.outcome(cmd, err, killed, last.String())
}

// outcome turns the end of a program into an error or nil.
func (j Job) outcome(cmd *exec.Cmd, err, killed error, output string) error {
	if err == nil && killed == nil {
		return nil
	}
	f := j.failed("", nil)
	f.Output = output
	if cmd.ProcessState != nil {
		f.Exit = cmd.ProcessState.ExitCode()
	}
	var exit *exec.ExitError
	switch {
	case killed != nil:
		f.Exit, f.Reason, f.Err = -1, killed.Error()+": killed", killed
	case f.Exit == exitLater:
		return fmt.Errorf("transform %d -> %d (%s): %w: %s", j.From, j.To, j.Spec.Exec[0], ErrLater, lastLines(output, maxErrorTail))
	case errors.As(err, &exit):
		f.Reason, f.Err = exit.Error(), err
		if j.Spec.MemoryMax > 0 {
			f.Reason += fmt.Sprintf(" (it was limited to %s of memory by transform.memory_max)", size(j.Spec.MemoryMax))
		}
	case cmd.Process == nil:
		f.Reason, f.Err = fmt.Sprintf("cannot start %q in %s: %v; check transform.exec of the release", j.Spec.Exec[0], j.Dir, err), err
	default:
		f.Reason, f.Err = err.Error(), err
	}
	return f
}

// watchDisk measures the new state and the disk from time to time until ctx
// ends, and ends it where too much is used. The channel is closed after that.
func (j Job) watchDisk(ctx context.Context, cancel context.CancelCauseFunc) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause := diskPoll; ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			begun := time.Now()
			if err := j.diskTrouble(); err != nil {
				cancel(err)
				return
			}
			pause = max(diskPoll, diskPollShare*time.Since(begun))
		}
	}()
	return done
}

func (j Job) diskTrouble() error {
	free, err := durable.FreeSpace(j.New)
	if err != nil {
		return err
	}
	if free < diskReserve {
		return fmt.Errorf("the disk of %s has only %s free, less than the reserve of %s", j.New, size(free), size(diskReserve))
	}
	if j.Spec.DiskMax == 0 {
		return nil
	}
	var sum usage
	for _, dir := range j.made() {
		u, err := measure(dir)
		if err != nil {
			return err
		}
		sum.disk += u.disk
	}
	return j.overDisk(sum)
}

func (r Runner) logger() *slog.Logger {
	if r.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Log
}

// lineLogger logs what is written to it line by line, up to maxLogLines.
type lineLogger struct {
	log   *slog.Logger
	line  []byte
	lines int
}

func (l *lineLogger) Write(p []byte) (int, error) {
	for _, b := range p {
		if b == '\n' {
			l.flush()
		} else if len(l.line) < maxLogLine {
			l.line = append(l.line, b)
		}
	}
	return len(p), nil
}

func (l *lineLogger) flush() {
	if len(l.line) == 0 {
		return
	}
	switch l.lines++; {
	case l.lines <= maxLogLines:
		l.log.Info("transform says", "line", string(l.line))
	case l.lines == maxLogLines+1:
		l.log.Info("transform says more than is logged")
	}
	l.line = l.line[:0]
}

// stopStrays kills every process that has MOULT_NEW=newSlot in its environment:
// children of a transform that left its process group, or outlived the agent
// that ran it. It returns when they have ended.
func stopStrays(newSlot string, who *account.Account) error {
	if err := stray.End("MOULT_NEW="+newSlot, who.Users()...); err != nil {
		return fmt.Errorf("end what still writes to %s: %w", newSlot, err)
	}
	return nil
}

package transforms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"moult/agent/account"
	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
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

// Job is one transform to be run. The software of Old must be stopped, unless it is Live.
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
	// Complement is what was kept when To was taken back here; empty where that is nothing.
	Complement string
	From, To   bundle.Version
	// Reverse says that release From is taken back: by Spec.Reverse, in the folder of its
	// own artifact, and with what [Slots.PrepareReverse] made. Old is the slot of From, and Past the
	// state of its past object, which are read; Future and Complement are made.
	Reverse bool
	// Live says that what writes to Old and Future may be running: New becomes a copy, by
	// Spec.Exec or file by file, that may be of no one moment.
	Live bool
	// Reserve is how many bytes must stay free on the disk; at least some do in any case.
	Reserve int64
	// Env is the program's environment, "NAME=value" each, besides moult's own.
	// Nothing is inherited from the agent.
	Env []string
	// Account is whose the program is; nil: the agent's. Old and Future must be its,
	// as New and Past are.
	Account *account.Account
	// Bounds are what the program is held to; nil: nothing.
	Bounds *bounds.Bounds
	// Sandbox, with the job's folders, is what the program is held to; nil: none. In one
	// TMPDIR is a folder of its own, which is removed after it.
	Sandbox *sandbox.Sandbox
}

// Result is what the new slot holds.
type Result struct {
	Objects int   // regular files
	Bytes   int64 // their lengths
	// Torn says that what was read was written to meanwhile. Only of a Live copy that no
	// program made.
	Torn bool
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
	torn, err := r.make(run, j)
	if errors.Is(err, ErrOldChanged) {
		return Result{}, err
	}
	if cause := context.Cause(ctx); cause != nil {
		return Result{}, fmt.Errorf("transform %d -> %d stopped: %w", j.From, j.To, cause)
	}
	if err != nil {
		return Result{}, err
	}
	look := inspect
	if j.Live {
		look = measure // it is what there is, and not yet what a release has made
	}
	u, err := look(j.New)
	if err != nil {
		return Result{}, j.failed("the new slot is not usable: "+err.Error(), err)
	}
	all := u
	for _, beside := range j.made()[1:] {
		b, err := inspect(beside)
		if err != nil {
			return Result{}, j.failed(fmt.Sprintf("the %s is not usable: %v", j.nameOf(beside), err), err)
		}
		all.disk += b.disk
	}
	if over := j.overDisk(all); over != nil {
		return Result{}, j.failed(over.Error(), over)
	}
	return Result{Objects: u.objects, Bytes: u.bytes, Torn: torn}, nil
}

// make fills the new folders, and sees to it that what they are made of stays as it is.
func (r Runner) make(ctx context.Context, j Job) (torn bool, err error) {
	if j.Live {
		if len(j.argv()) > 0 {
			return false, r.exec(ctx, j)
		}
		return j.copyLive(ctx)
	}
	before, err := j.fingerprint()
	if err != nil {
		return false, j.failed("read the old state: "+err.Error(), err)
	}
	if len(j.argv()) == 0 {
		err = j.copy(ctx)
	} else {
		err = r.exec(ctx, j)
	}
	// The old slot is looked at whatever came out: that it changed is the
	// graver news.
	after, fpErr := j.fingerprint()
	if fpErr != nil || !slices.Equal(after, before) {
		return false, j.oldChanged(err, fpErr, before, after)
	}
	return false, err
}

func (j Job) check() error {
	var known []string
	if j.Reverse && j.Spec.Reverse == nil {
		return fmt.Errorf("release %d has no reverse transform", j.From)
	}
	for _, dir := range append(j.given(), j.made()...) {
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

// argv is the program; none where the state is copied as it is.
func (j Job) argv() []string {
	if j.Reverse && j.Spec.Reverse != nil {
		return j.Spec.Reverse.Exec
	}
	return j.Spec.Exec
}

// made lists the folders that the transform fills, the new slot first.
func (j Job) made() []string {
	if j.Reverse {
		return folders(j.New, j.Future, j.Complement)
	}
	return folders(j.New, j.Past)
}

// given lists the folders that the transform reads.
func (j Job) given() []string {
	if j.Reverse {
		return folders(j.Old, j.Past)
	}
	return folders(j.Old, j.Future, j.Complement)
}

func folders(dirs ...string) []string {
	return slices.DeleteFunc(dirs, func(dir string) bool { return dir == "" })
}

// nameOf is what people call a folder beside the slots.
func (j Job) nameOf(dir string) string {
	switch dir {
	case j.Past:
		return "state of the past object"
	case j.Future:
		return "state of the future object"
	}
	return "complement"
}

func (j Job) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	d := time.Duration(j.Spec.Timeout)
	if d <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, overdue(d))
}

// overdue says that a program, or the copy in its place, took longer than it may.
type overdue time.Duration

func (o overdue) Error() string {
	return fmt.Sprintf("not done after %s (transform.timeout)", time.Duration(o))
}

// fingerprint is of all that the transform is given, in that order.
func (j Job) fingerprint() (all []fingerprint, err error) {
	for _, dir := range j.given() {
		f, err := fingerprintOf(dir)
		if err != nil {
			return all, err
		}
		all = append(all, f)
	}
	return all, nil
}

func (j Job) failed(reason string, err error) *Failed {
	return &Failed{From: j.From, To: j.To, Argv: j.argv(), Exit: -1, Reason: reason, Err: err, Own: ownFault(err)}
}

// ownFault tells the errors that say something against a release.
func ownFault(err error) bool {
	var late overdue
	var disk tooMuch
	var entry *Uncopyable
	return errors.As(err, &late) || errors.As(err, &disk) || errors.As(err, &entry)
}

// tooMuch says that the new state takes more than transform.disk_max.
type tooMuch string

func (t tooMuch) Error() string { return string(t) }

// oldChanged reports that the old state is not what it was, or cannot be read
// any more, over whatever else went wrong.
func (j Job) oldChanged(err, readErr error, before, after []fingerprint) error {
	where := j.Old
	for i, dir := range j.given() {
		if i >= len(after) || before[i] != after[i] {
			where = dir
			break
		}
	}
	f := j.failed("", errors.Join(ErrOldChanged, readErr))
	f.Own = readErr == nil
	var prior *Failed
	if errors.As(err, &prior) {
		f.Exit, f.Output = prior.Exit, prior.Output
	}
	f.Reason = fmt.Sprintf("%v: something wrote to %s; make sure that no other process uses it, and check it before the node runs on it again", ErrOldChanged, where)
	return f
}

func (j Job) overDisk(u usage) error {
	if j.Spec.DiskMax > 0 && u.disk > j.Spec.DiskMax {
		return tooMuch(fmt.Sprintf("the new state takes %s on disk, more than transform.disk_max, %s", size(u.disk), size(j.Spec.DiskMax)))
	}
	return nil
}

// copy is the transform of a release that brings no program.
func (j Job) copy(ctx context.Context) error {
	if j.Old == "" {
		return nil
	}
	u, err := inspect(j.Old)
	if err == nil {
		err = j.overDisk(u)
	}
	if err != nil {
		return j.failed(err.Error(), err)
	}
	if err := CheckSpace(j.New, u.disk+j.reserve()); err != nil {
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
		return r.program(ctx, j, nil, false)
	}
	if r.Protect != ProtectCopy {
		err := r.program(ctx, j, nil, true)
		if !errors.Is(err, errNoMount) {
			return err
		}
		if r.Protect == ProtectMount {
			return j.failed(err.Error(), err)
		}
		r.logger().Info("transform gets a copy of the old state", "from", j.From, "to", j.To, "why", err.Error())
	}
	if j.Live {
		// It is there because it makes a better copy than one file by file is.
		return r.program(ctx, j, nil, false)
	}
	copies := shown{}
	err := j.throwAwayCopies(ctx, copies)
	if err == nil {
		err = r.program(ctx, j, copies, false)
	}
	for _, dir := range slices.Sorted(maps.Values(copies)) {
		if rmErr := removeTree(dir); rmErr != nil {
			// What is left is cleared by the next OpenSlots; it only takes room.
			r.logger().Warn("copy of the old state left behind", "folder", dir, "err", rmErr)
		}
	}
	return err
}

// shown is where the program sees what it is given, by folder; what is not in it is seen
// where it is.
type shown map[string]string

func (s shown) of(dir string) string { return cmp.Or(s[dir], dir) }

// throwAwayCopies makes copies of what the program is given. It says in to what
// it has begun, also on error.
func (j Job) throwAwayCopies(ctx context.Context, to shown) error {
	scratch := filepath.Join(filepath.Dir(j.New), oldPrefix+slotName(j.To))
	need := j.reserve()
	for _, dir := range j.given() {
		u, err := measure(dir)
		if err != nil {
			return j.failed("make a throw-away copy of the old state: "+err.Error(), err)
		}
		need += u.disk
		if dir == j.Old {
			need += u.disk // the new slot takes as much
		}
	}
	err := CheckSpace(j.New, need)
	for i, dir := range j.given() {
		if err != nil {
			break
		}
		to[dir] = scratch
		if i > 0 {
			to[dir] += "-" + strconv.Itoa(i)
		}
		err = j.throwAwayCopy(ctx, dir, to[dir])
	}
	if err != nil {
		return j.failed("make a throw-away copy of the old state: "+err.Error(), err)
	}
	return nil
}

func (j Job) throwAwayCopy(ctx context.Context, from, to string) error {
	if err := removeTree(to); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	if err := j.Account.Give(to); err != nil {
		return err
	}
	return copyTree(ctx, from, to, 0o222)
}

// environment is the program's, s being what it is given.
func (j Job) environment(s shown) []string {
	env := append([]string{}, j.Env...)
	env = append(env,
		"MOULT_OLD="+s.of(j.Old), "MOULT_NEW="+j.New,
		fmt.Sprintf("MOULT_FROM=%d", j.From), fmt.Sprintf("MOULT_TO=%d", j.To))
	for _, v := range []struct{ name, dir string }{{"MOULT_FUTURE_STATE", j.Future}, {"MOULT_PAST_STATE", j.Past}, {"MOULT_COMPLEMENT", j.Complement}} {
		if v.dir != "" {
			env = append(env, v.name+"="+s.of(v.dir))
		}
	}
	return env
}

// program runs the program once, s being what it sees of the old state.
func (r Runner) program(ctx context.Context, j Job, s shown, mount bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	dir, argv := j.Bounds.Begin(j.Dir, j.argv())
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
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

	box, scratch, err := j.sandbox(s, mount)
	if err != nil {
		return j.failed("make its folder for temporary files: "+err.Error(), err)
	}
	if scratch != "" {
		cmd.Env = append(cmd.Env, "TMPDIR="+scratch)
		defer func() {
			if err := removeTree(scratch); err != nil { // the next OpenSlots does it
				r.logger().Warn("temporary files of a transform left behind", "folder", scratch, "err", err)
			}
		}()
	}
	watched := j.watchDisk(ctx, cancel)
	c := confinement{memoryMax: j.Spec.MemoryMax, newSlot: j.New, account: j.Account, sandbox: box, bounds: j.Bounds}
	if mount {
		c.readOnly = j.given()
	}
	kills := j.Bounds.InGroup().Kills()
	err = runConfined(cmd, c)
	killed := context.Cause(ctx)
	cancel(nil)
	<-watched
	lines.flush()
	if errors.Is(err, errNoMount) {
		return err
	}
	err = j.outcome(cmd, err, killed, last.String())
	if f, failed := errors.AsType[*Failed](err); failed && killed == nil {
		if why := j.Bounds.InGroup().Killed(kills, f.Exit < 0); why != "" {
			f.Reason += " (" + why + ")"
		}
	}
	return err
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
		f.Own = ownFault(killed)
	case f.Exit == ExitLater:
		return fmt.Errorf("transform %d -> %d (%s): %w: %s", j.From, j.To, j.argv()[0], ErrLater, lastLines(output, maxErrorTail))
	case errors.As(err, &exit):
		f.Reason, f.Err, f.Own = exit.Error(), err, true
		if j.Spec.MemoryMax > 0 {
			f.Reason += fmt.Sprintf(" (it was limited to %s of memory by transform.memory_max)", size(j.Spec.MemoryMax))
		}
		if j.Sandbox != nil && strings.Contains(strings.ToLower(output), "permission denied") {
			f.Reason += " (it may be that it is held to its folders and the system's: readable and writable in agent.hcl give it others)"
		}
	case cmd.Process == nil:
		f.Reason, f.Err = fmt.Sprintf("cannot start %q in %s: %v; check transform.exec of the release", j.argv()[0], j.Dir, err), err
		f.Own = Unstartable(err)
	default:
		f.Reason, f.Err, f.Own = err.Error(), err, errors.Is(err, exec.ErrWaitDelay)
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

func (j Job) reserve() int64 { return max(j.Reserve, diskReserve) }

func (j Job) diskTrouble() error {
	free, err := durable.FreeSpace(j.New)
	if err != nil {
		return err
	}
	if free < j.reserve() {
		return fmt.Errorf("the disk of %s has only %s free, less than the reserve of %s", j.New, size(free), size(j.reserve()))
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
	users := who.Users()
	if info, err := os.Lstat(newSlot); err == nil { // it may have been made for another user
		if uid, _, ok := owner(info); ok {
			users = append(users, uid)
		}
	}
	if err := stray.End("MOULT_NEW="+newSlot, users...); err != nil {
		return fmt.Errorf("end what still writes to %s: %w", newSlot, err)
	}
	return nil
}

package rehearse

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"moult/simlayer/host"
	"moult/simlayer/host/child"
	"moult/transforms"
	"moult/transforms/stray"
)

// CommandName is the argument that makes this binary be a process of a rehearsal; see Main.
const CommandName = "rehearsal"

// errCannot says that a process cannot use a network of its own.
var errCannot = errors.New("no network of its own can be made")

// errNotAlone says that the network of a process is not its own.
var errNotAlone = errors.New("other interfaces are here, too")

// errNarrow ends a rehearsal that takes what the machine needs for what serves.
var errNarrow = errors.New("a rehearsal takes too much")

// errTimeout ends a rehearsal.
var errTimeout = errors.New("its time is over")

// Run rehearses. Where the state was written to while it was copied, and the release fails
// on the copy, another copy decides, some times: it may be of no one moment. The error is
// nil, an Unfit, transforms.ErrLater for errors.Is, or something that says nothing against
// the release.
func Run(ctx context.Context, j Job, log *slog.Logger) (r Report, err error) {
	if err := supported(); err != nil {
		return Report{Note: fmt.Sprintf("nothing was rehearsed: %v", err)}, nil
	}
	j.Timeout = cmp.Or(j.Timeout, DefaultTimeout)
	began := time.Now()
	defer func() { r.Took = time.Since(began) }()
	within, cancel := context.WithTimeoutCause(ctx, j.Timeout, errTimeout)
	defer cancel()
	for round := 1; ; round++ {
		torn := false
		start := time.Now()
		r, torn, err = j.once(within, log)
		var u *Unfit
		if !errors.As(err, &u) || within.Err() != nil || !torn {
			return r, err
		}
		if deadline, _ := within.Deadline(); round == rounds || time.Until(deadline) < time.Since(start) {
			return r, unfit("%s (the software wrote to its state while that was copied, %d times: if that is why, have rehearse.snapshot make the copy)", u.Reason, round)
		}
		log.Info("the rehearsal failed on a copy of a state that changed meanwhile, and is tried on another", "reason", u.Reason)
	}
}

// Sweep removes a folder of rehearsals, and ends what still runs in it as one of users.
func Sweep(folder string, users ...int) error {
	err := stray.End(mark(folder), users...)
	if err == nil {
		err = errors.Join(transforms.RemoveTree(folder), host.RemoveSockets(objects(folder)))
	}
	if err != nil {
		return fmt.Errorf("remove what a rehearsal has left in %s: %w", folder, err)
	}
	return nil
}

func (j Job) users() []int { return append(j.Account.Users(), j.Former...) }

// once is one rehearsal, on a copy of its own.
func (j Job) once(ctx context.Context, log *slog.Logger) (r Report, torn bool, err error) {
	if err := j.prepare(); err != nil {
		return r, false, err
	}
	defer func() {
		if sweepErr := Sweep(j.Folder, j.users()...); sweepErr != nil {
			log.Warn("a rehearsal leaves something behind", "err", sweepErr)
		}
	}()
	r.Stages, torn, err = j.part(ctx, partCopy)
	if err != nil {
		return r, torn, err
	}
	stages, _, err := j.part(ctx, partAlone)
	if errors.Is(err, errCannot) { // in a container, perhaps
		stages, _, err = j.part(ctx, partApart)
	}
	if errors.Is(err, errCannot) {
		r.Note = clip(fmt.Sprintf("the software was not started: %v", err))
		stages, _, err = j.part(ctx, partRun)
	}
	r.Stages = append(r.Stages, stages...)
	return r, torn, err
}

// prepare makes the folder and writes down what is to be done.
func (j Job) prepare() error {
	if err := Sweep(j.Folder, j.users()...); err != nil {
		return err
	}
	for _, dir := range []string{j.Folder, filepath.Join(j.Folder, "state")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := transforms.Enter(dir, j.Account); err != nil {
			return err
		}
	}
	j.As = identity(j.Account)
	data, err := json.Marshal(j)
	if err == nil && len(data) > maxJob {
		err = fmt.Errorf("the job of a rehearsal has %d bytes, the most is %d", len(data), maxJob)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(jobFile(j.Folder), data, 0o600)
}

// part runs one process of a rehearsal, to its end, and with all that it has started.
func (j Job) part(ctx context.Context, part string) (stages []Stage, torn bool, err error) {
	apart := apartOf(part)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := j.watchRoom(ctx, cancel)
	h, out := &heard{watch: j.Watch}, &tail{}
	cmd := exec.CommandContext(ctx, child.ThisProgram(), CommandName, part, j.Folder)
	cmd.Dir = j.Folder
	cmd.Env = append(os.Environ(), mark(j.Folder))
	cmd.Stdout, cmd.Stderr = h, out
	cmd.WaitDelay = outputGrace
	endErr := runTied(cmd, apart)
	narrow := context.Cause(ctx)
	cancel(narrow)
	<-watched
	if err := stray.End(mark(j.Folder), j.users()...); err != nil {
		return nil, false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watch, stages, torn = nil, h.stages, h.torn
	switch {
	case h.err != nil:
		err = h.err
	case errors.Is(narrow, errNarrow):
		err = narrow
	case h.end != nil:
		err = j.believe(h.end.err())
	case errors.Is(narrow, errTimeout) && (h.begun == "" || part == partCopy && len(j.Snapshot) == 0):
		err = fmt.Errorf("not done after %s (rehearse.timeout): it was still to %s, which is no fault of the release, and needs a longer time", j.Timeout, cmp.Or(h.begun, "begin"))
	case errors.Is(narrow, errTimeout):
		err = j.believe(unfit("not done after %s (rehearse.timeout): it was still to %s", j.Timeout, h.begun))
	case narrow != nil:
		err = narrow
	case apart > together && cmd.Process == nil:
		err = cannot(endErr)
	default:
		err = fmt.Errorf("a process of the rehearsal ended while it was to %s: %w: %s", cmp.Or(h.begun, "begin"), cmp.Or(endErr, errors.New("exit status 0")), strings.TrimSpace(out.String()))
	}
	return stages, torn, err
}

// watchRoom looks whether the machine has memory and disk left for what serves, until ctx ends,
// and ends it where it has not. The channel is closed after that.
func (j Job) watchRoom(ctx context.Context, cancel context.CancelCauseFunc) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(roomPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if free, err := freeMemory(); err == nil && free < max(j.ReserveMemory, ReserveMemory) {
				cancel(fmt.Errorf("%w: the machine has only %d MiB of memory left, less than %d, so the rehearsal was ended: what serves needs them", errNarrow, free>>20, max(j.ReserveMemory, ReserveMemory)>>20))
				return
			}
			if err := transforms.CheckSpace(j.Folder, Reserve); err != nil {
				cancel(fmt.Errorf("%w: %w", errNarrow, err))
				return
			}
		}
	}()
	return done
}

// cannot marks errors that say that this process may not make a network of its own;
// others may be over next time.
func cannot(err error) error {
	for _, one := range []error{errNotAlone, syscall.EPERM, syscall.EACCES, syscall.ENOSYS, syscall.EINVAL, syscall.ENOSPC, syscall.EUSERS} {
		if errors.Is(err, one) {
			return fmt.Errorf("%w: %w", errCannot, err)
		}
	}
	return err
}

// believe takes an Unfit for what it is only where the disk has room: who fails to write
// seldom says why.
func (j Job) believe(err error) error {
	if _, is := errors.AsType[*Unfit](err); is {
		if spaceErr := transforms.CheckSpace(j.Folder, Reserve); spaceErr != nil {
			return fmt.Errorf("%w (it was found that: %s)", spaceErr, err.Error())
		}
	}
	return err
}

// err is what an end means.
func (x note) err() error {
	switch x.End {
	case endOK:
		return nil
	case endUnfit:
		return &Unfit{clip(x.Reason)}
	case endLater:
		return fmt.Errorf("%w: %s", transforms.ErrLater, clip(x.Reason))
	case endCannot:
		return fmt.Errorf("%w: %s", errCannot, clip(x.Reason))
	}
	return errors.New(clip(x.Reason))
}

// tail keeps the last maxOutput bytes that were written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-maxOutput):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.b), "?")
}

package rehearse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"moult/agent/account"
	"moult/agent/account/sandbox"
	"moult/agent/process"
	"moult/store/bundle"
	"moult/transforms"
)

// The parts of a rehearsal, each a process.
const (
	partCopy = "copy"
	partRun  = "run"
	// partApart is partRun in a network of its own, where the software is started, too, and
	// partAlone that among processes of its own.
	partApart = "run-apart"
	partAlone = "run-alone"
)

// isAlone is the argument of a part that is apart already.
const isAlone = "alone"

// apartness is how far a part is apart from the machine.
type apartness int

const (
	together apartness = iota
	apartNet
	apartAll
)

func apartOf(part string) apartness {
	return map[string]apartness{partApart: apartNet, partAlone: apartAll}[part]
}

// Main is a process of a rehearsal: its arguments are the part and the folder. It tells what
// comes of it on its standard output.
func Main(args []string, stdout, stderr io.Writer) int {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if len(args) != 2 && (len(args) != 3 || args[2] != isAlone) {
		fmt.Fprintf(stderr, "moult: %s: agents start this command, to rehearse a release; it is of no use by itself\n", CommandName)
		return 2
	}
	part, folder, ready := args[0], args[1], len(args) == 3
	s := stage{notes: notebook{stdout}, log: log}
	if err := s.notes.end(s.play(context.Background(), part, folder, ready)); err != nil {
		fmt.Fprintf(stderr, "moult: %s: %v\n", CommandName, err)
		return 1
	}
	return 0
}

// stage is where one part is played.
type stage struct {
	Job
	notes notebook
	log   *slog.Logger
	apart apartness
}

func (s *stage) play(ctx context.Context, part, folder string, ready bool) error {
	data, err := os.ReadFile(jobFile(folder))
	if err == nil {
		err = json.Unmarshal(data, &s.Job)
	}
	if err == nil && len(s.As) > 1 {
		s.Account, err = account.Resolve(s.As[0], s.As[1], s.As[2:])
	}
	if err != nil {
		return err
	}
	if err := giveWay(); err != nil {
		s.log.Info("the rehearsal does not give way to others", "err", err)
	}
	if part == partCopy {
		return s.copyAll(ctx)
	}
	apart := apartOf(part)
	s.apart = apart
	if apart > together && !ready {
		err := alone(apart)
		if err == nil {
			err = without(isAlone)
		}
		if err != nil {
			return cannot(err)
		}
	}
	if err := s.transformAll(ctx); err != nil || apart == together {
		return err // software with a way out could act for the node
	}
	return s.software(ctx)
}

// environment is what programs get, and the rehearsal's own.
func (s *stage) environment(more ...string) []string {
	return append(append(slices.Clone(s.Env), mark(s.Folder)), more...)
}

// copyAll copies the state, and that of future objects.
func (s *stage) copyAll(ctx context.Context) error {
	return s.notes.during("copy the state", Stage{Name: StageCopy, Version: s.From}, func(st *Stage) error {
		var env []string
		for _, name := range slices.Sorted(maps.Keys(s.Live)) {
			env = append(env, variable("MOULT_SERVICE_", name)+"="+s.Live[name])
		}
		j := transforms.Job{
			Spec: bundle.Transform{Exec: s.Snapshot}, Dir: s.SnapshotDir, Old: s.State, New: s.Slot(s.From), From: s.From, To: s.From,
			Env: s.environment(env...), Account: s.Account, Bounds: s.Bounds, Sandbox: s.Sandbox, Live: true, Reserve: Reserve,
		}
		r, err := s.made(ctx, j)
		if u, ok := errors.AsType[*transforms.Uncopyable](err); ok {
			return unfit("%v", u)
		}
		if f, ok := errors.AsType[*transforms.Failed](err); ok && f.Own && len(s.Snapshot) > 0 {
			return unfit("its snapshot failed: %s", said(f))
		}
		if err != nil {
			return err
		}
		st.Files, st.Bytes = r.Objects, r.Bytes
		for _, step := range s.Steps {
			for _, kept := range []struct{ what, dir string }{{"future", step.Future}, {"complement", step.Complement}} {
				if kept.dir == "" {
					continue
				}
				j := transforms.Job{Old: kept.dir, New: s.object(step.To, kept.what), From: s.From, To: s.From, Account: s.Account, Live: true, Reserve: Reserve}
				copied, err := s.made(ctx, j)
				if err != nil {
					return err
				}
				r.Torn = r.Torn || copied.Torn
			}
		}
		if r.Torn {
			return s.notes.write(note{Torn: true})
		}
		return nil
	})
}

// object is where the state of an object of a release is.
func (s *stage) object(v bundle.Version, kind string) string { return s.Slot(v) + "-" + kind }

// made makes what a job fills, and runs it.
func (s *stage) made(ctx context.Context, j transforms.Job) (transforms.Result, error) {
	for _, dir := range []string{j.New, j.Past} {
		if dir == "" {
			continue
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return transforms.Result{}, err
		}
		if err := s.Account.Give(dir); err != nil {
			return transforms.Result{}, err
		}
	}
	return transforms.Runner{Log: s.log}.Run(ctx, j)
}

// transformAll goes the path. A slot that is read no more is removed.
func (s *stage) transformAll(ctx context.Context) error {
	from := s.From
	for _, step := range s.Steps {
		what := fmt.Sprintf("transform the copy to version %d", step.To)
		err := s.notes.during(what, Stage{Name: StageTransform, Version: step.To}, func(st *Stage) error {
			j := transforms.Job{
				Spec: step.Transform, Dir: step.Dir, Old: s.Slot(from), New: s.Slot(step.To), From: from, To: step.To,
				Env: s.environment(), Account: s.Account, Bounds: s.Bounds, Sandbox: s.Sandbox, Reserve: Reserve,
			}
			if step.Future != "" {
				j.Future = s.object(step.To, "future")
			}
			if step.Complement != "" {
				j.Complement = s.object(step.To, "complement")
			}
			if step.Past.Stateful() {
				j.Past = s.object(step.To, "past")
			}
			r, err := s.made(ctx, j)
			st.Files, st.Bytes = r.Objects, r.Bytes
			return s.blame(err)
		})
		if err != nil {
			return err
		}
		if err := transforms.RemoveTree(s.Slot(from)); err != nil {
			return err
		}
		from = step.To
	}
	return nil
}

// blame tells what the release failed at from what is no fault of its own.
func (s *stage) blame(err error) error {
	if f, failed := errors.AsType[*transforms.Failed](err); failed && f.Own {
		return unfit("%v", err)
	}
	return err
}

// software starts it, waits until it is well, and has it checked.
func (s *stage) software(ctx context.Context) (err error) {
	soft, v := s.Software, s.last().To
	var p *process.Process
	explain := func(err error) error {
		if tail := strings.TrimSpace(p.LogTail(3)); tail != "" {
			hint := ""
			if s.Sandbox != nil && strings.Contains(strings.ToLower(tail), "permission denied") {
				hint = " (it may be that in a rehearsal it is held to its folders and the system's: readable and writable in agent.hcl give it others)"
			}
			return unfit("version %d: %v%s; its last output: %s", v, err, hint, tail)
		}
		return unfit("version %d: %v", v, err)
	}
	err = s.notes.during(fmt.Sprintf("start version %d", v), Stage{Name: StageStart, Version: v}, func(*Stage) error {
		if p, err = s.start(); err != nil {
			return err
		}
		if err := p.AwaitReady(ctx); err != nil {
			return explain(err)
		}
		return nil
	})
	if p != nil {
		defer func() {
			_, stopErr := p.Stop(ctx, 0)
			err = errors.Join(err, stopErr)
		}()
	}
	if err != nil {
		return err
	}
	err = s.notes.during(fmt.Sprintf("watch whether version %d stays healthy", v), Stage{Name: StageHealth, Version: v}, func(*Stage) error {
		if err := p.AwaitHealthy(ctx, time.Duration(soft.Health.MinHealthyTime)); err != nil {
			return explain(err)
		}
		return nil
	})
	if err != nil || len(s.Check) == 0 {
		return err
	}
	return s.notes.during("check version "+fmt.Sprint(v), Stage{Name: StageCheck, Version: v}, func(*Stage) error { return s.check(ctx) })
}

// start starts the software.
func (s *stage) start() (*process.Process, error) {
	soft, v := s.Software, s.last().To
	if err := process.CheckProgram(soft.Dir, soft.Argv[0]); err != nil {
		return nil, unfit("version %d: %v", v, err)
	}
	sockets, err := soft.sockets()
	defer func() {
		for _, one := range sockets {
			_ = one.File.Close() // the software has its own
		}
	}()
	if err != nil {
		return nil, err
	}
	box, env, err := s.box()
	if err != nil {
		return nil, err
	}
	p, err := process.Start(process.Spec{
		Dir: soft.Dir, Argv: soft.Argv, Env: append(env, mark(s.Folder)), Account: s.Account, Bounds: s.Bounds, Sandbox: box, Marker: s.Node.String() + "-rehearsal",
		LogPath: filepath.Join(s.Folder, "software.log"), Health: soft.Health, HealthAddr: soft.HealthAddr, Sockets: sockets,
		// As long as its path in the data folder, which may be as long as one can be.
		NotifySocket: filepath.Join(s.Folder, "n"), Log: s.log,
	})
	if transforms.Unstartable(err) {
		return nil, unfit("version %d: %v", v, err)
	}
	return p, err
}

// box is what the software and its checks of health work in, with the environment that it
// gets: it has its release's folder, the copy of the state, and a folder for temporary files.
// Among processes of their own they may signal each other; else nobody that they did not begin.
func (s *stage) box() (*sandbox.Sandbox, []string, error) {
	env := slices.Clone(s.Software.Env)
	if s.Sandbox == nil {
		return nil, env, nil
	}
	scratch := filepath.Join(s.Folder, "tmp")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return nil, nil, err
	}
	if err := s.Account.Give(scratch); err != nil {
		return nil, nil, err
	}
	box := s.Sandbox.Of([]string{s.last().Dir, s.Software.Dir, s.Bounds.Program()}, []string{s.Slot(s.last().To), scratch})
	if s.apart == apartAll {
		box = box.Signalling()
	}
	return box, append(env, "TMPDIR="+scratch), nil
}

// sockets are those that the software is given; the caller's to close, also on error.
func (soft Software) sockets() (all []process.Socket, err error) {
	for _, service := range soft.Services {
		if !service.Inherits {
			continue
		}
		f, err := listen(service.Protocol, service.Addr)
		if err != nil {
			return all, fmt.Errorf("listen for service %q, whose socket the software is given: %w", service.Name, err)
		}
		all = append(all, process.Socket{Name: service.Name, File: f})
	}
	return all, nil
}

func listen(protocol, addr string) (*os.File, error) {
	if protocol == bundle.ProtocolUDP {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.(*net.UDPConn).File()
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return l.(*net.TCPListener).File()
}

// check runs the release's own.
func (s *stage) check(ctx context.Context) error {
	env := []string{"MOULT_STATE=" + s.Slot(s.last().To)}
	for _, service := range s.Software.Services {
		env = append(env, variable("MOULT_SERVICE_", service.Name)+"="+service.Addr)
	}
	past, end, err := s.past(ctx)
	if err != nil {
		return err
	}
	defer end()
	for _, name := range slices.Sorted(maps.Keys(past)) {
		env = append(env, variable("MOULT_PAST_", name)+"="+past[name])
	}
	scratch := filepath.Join(s.Folder, "state", "check")
	_, err = s.made(ctx, transforms.Job{
		Spec: bundle.Transform{Exec: s.Check}, Dir: s.Software.Dir, New: scratch, From: s.From, To: s.last().To, Env: s.environment(env...), Account: s.Account, Bounds: s.Bounds, Reserve: Reserve,
		Sandbox: s.Sandbox.Of(nil, []string{s.Slot(s.last().To)}),
	})
	if f, ok := errors.AsType[*transforms.Failed](err); ok && f.Own {
		return unfit("its check failed: %s", said(f))
	}
	if errors.Is(err, transforms.ErrLater) {
		return unfit("its check failed: exit status 21")
	}
	return err
}

// said is how a program ended, and its last words.
func said(f *transforms.Failed) string {
	text := strings.Join(f.Argv, " ") + ": " + f.Reason
	if words := f.LastOutput(); words != "" {
		text += "; its last output: " + words
	}
	return text
}

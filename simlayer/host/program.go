package host

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/host/child"
	"moult/simlayer/host/control"
	"moult/simlayer/so"
)

// program is the agent's side of one exec object.
type program struct {
	cfg     Config
	given   Object    // as it came
	object  Object    // with what it left out
	mark    string    // what its processes have in their environment
	sockets []*socket // in the order of the services
	bridges []*bridge
	*child.Keeper

	begun sync.Once
}

// newProgram makes the sockets of an exec object. It runs by start.
func newProgram(cfg Config, o Object) (p *program, err error) {
	log := cfg.Log.With("object", o.Version, "calls", o.To)
	state, err := filepath.Abs(o.State)
	if err != nil {
		return nil, fmt.Errorf("folder of a simulation object's state: %w", err)
	}
	cfg.Log = log
	p = &program{cfg: cfg, given: o, object: o, mark: "MOULT_OBJECT=" + state}
	p.object.State = state
	if o.StartTimeout == 0 {
		p.object.StartTimeout = defaultStart
	}
	defer func() {
		if err != nil {
			p.abandon()
		}
	}()
	for _, s := range cfg.Services {
		sock, err := listenLoopback(s)
		if err != nil {
			return nil, err
		}
		p.sockets = append(p.sockets, sock)
		b, err := newBridge(s, log)
		if err != nil {
			return nil, err
		}
		p.bridges = append(p.bridges, b)
	}
	p.Keeper = child.NewKeeper(child.Plan{
		Log: log, Grace: cfg.Grace, MinPause: cfg.MinPause, MaxPause: cfg.MaxPause,
		Launch: p.launch, Resting: p.refuse, Starting: p.admit,
	}, child.StateStarting)
	return p, nil
}

// start begins to keep the program up; after, where it is not nil, has answered
// the same callers, and ends first.
func (p *program) start(after *program) {
	p.begun.Do(func() {
		go func() {
			if after != nil {
				<-after.Done()
			}
			p.Run()
		}()
	})
}

// abandon gives up a program that was not started.
func (p *program) abandon() {
	for _, s := range p.sockets {
		s.close()
	}
	for _, b := range p.bridges {
		b.close()
	}
}

// close ends the program, politely at first, and returns when all of it is gone.
func (p *program) close() {
	p.Halt()
	p.abandon()
}

func (p *program) address(service string) string {
	for _, s := range p.sockets {
		if s.service.Name == service {
			return s.addr
		}
	}
	return ""
}

func (p *program) setNext(next map[string]string, hold time.Duration) {
	for i, b := range p.bridges {
		b.lead(next[p.sockets[i].service.Name], hold)
	}
}

func (p *program) tell(s *Stats) {
	s.process(p.Now())
	for _, sock := range p.sockets {
		s.Errors += sock.refused.Load()
	}
	s.Calls = s.Errors
}

func (p *program) refuse() {
	for _, s := range p.sockets {
		s.refuse(func() *so.Refusal {
			return control.Down(p.object.Version, p.object.To, "%s", p.Now().Problem)
		}, p.cfg.Log)
	}
}

func (p *program) admit() {
	for _, s := range p.sockets {
		s.pass()
	}
}

// launch starts the program.
func (p *program) launch(<-chan struct{}) (*child.Child, error) {
	if info, err := os.Stat(p.object.Dir); err != nil {
		return nil, fmt.Errorf("start %q: its folder: %w", p.object.Argv[0], err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("start %q: %s is not a folder", p.object.Argv[0], p.object.Dir)
	}
	own, err := p.ownAddresses()
	if err != nil {
		return nil, err
	}
	dir, words := p.cfg.Bounds.Begin(p.object.Dir, p.object.Argv)
	argv := slices.Concat(p.cfg.Program, []string{becomeName, strconv.FormatInt(p.object.Memory, 10)}, words)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = p.environment(own)
	for _, s := range p.sockets {
		f, err := s.file()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		// It becomes blocking by being passed, as programs expect it.
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	box := p.cfg.Sandbox.Of([]string{p.object.Dir, cmd.Path, p.cfg.Bounds.Program()}, []string{p.object.State})
	if box != nil {
		cmd.Env = append(cmd.Env, "TMPDIR="+p.object.State)
	}
	if err := p.cfg.Bounds.Wrap(cmd); err != nil {
		return nil, err
	}
	c, err := child.StartAs(p.cfg.Account, p.cfg.Bounds.InGroup(), box, cmd, p.mark, p.cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("start %q in %s: %w", p.object.Argv[0], p.object.Dir, err)
	}
	if err := p.cfg.Bounds.Score(c.PID()); err != nil {
		p.cfg.Log.Warn("a simulation object is not ended first where memory runs out, as it should", "err", err)
	}
	go p.watch(c, own)
	return c, nil
}

// environment is all that the program gets, but for LISTEN_PID.
func (p *program) environment(own []string) []string {
	env := slices.Clone(p.object.Env)
	names := make([]string, len(p.sockets))
	for i, s := range p.sockets {
		names[i] = s.service.Name
		env = append(env,
			"MOULT_NEXT_"+variable(s.service.Name)+"="+p.bridges[i].addr,
			"MOULT_LISTEN_"+variable(s.service.Name)+"="+own[i])
	}
	if p.object.Observe != "" {
		env = append(env, "MOULT_OBSERVED="+p.object.Observe)
	}
	return append(env, markOf(p.cfg.Dir),
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"),
		"MOULT_STATE="+p.object.State,
		fmt.Sprintf("MOULT_FROM=%d", p.object.Version), fmt.Sprintf("MOULT_TO=%d", p.object.To))
}

// ownAddresses finds a free address for each service, for a program that cannot
// inherit sockets. Another may take one before it is used; then the program ends,
// and gets others when it is started again.
func (p *program) ownAddresses() ([]string, error) {
	own := make([]string, len(p.sockets))
	for i, s := range p.sockets {
		free, err := listenLoopback(s.service)
		if err != nil {
			return nil, err
		}
		defer free.close() // at the end, so that none comes twice
		own[i] = free.addr
	}
	return own, nil
}

// watch looks at the queues until the program ends: callers that nobody takes are
// carried to the program's own address, or else it hangs.
func (p *program) watch(c *child.Child, own []string) {
	tick := time.NewTicker(lookPause)
	defer tick.Stop()
	queues := make([]queue, len(p.sockets))
	carried := make([]bool, len(p.sockets))
	for {
		select {
		case <-c.Done():
			return
		case now := <-tick.C:
			for i, s := range p.sockets {
				n, known := waiting(s)
				if !known || carried[i] {
					continue
				}
				stalled := queues[i].look(n, now)
				if stalled > 0 && !queues[i].moved {
					carried[i] = p.carry(s, own[i])
				}
				if limit := queues[i].limit(p.object.StartTimeout); stalled >= limit && !carried[i] {
					c.Kill(fmt.Errorf("it was killed: for %v it took no caller of service %q, neither from the socket that it inherits (LISTEN_FDS) nor at %s (MOULT_LISTEN_%s)",
						limit, s.service.Name, own[i], variable(s.service.Name)))
					return
				}
			}
		}
	}
}

// carry makes the agent accept for a program that listens at an address of its
// own; false where nobody does.
func (p *program) carry(s *socket, addr string) bool {
	// Another may have taken the address that was free.
	if !listensAt(p.mark, addr, p.cfg.Account.Users()...) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookPause)
	defer cancel()
	first, err := attach.Dial(ctx, addr)
	if err != nil {
		return false
	}
	t := newTarget()
	t.set(addr)
	reach := func(ctx context.Context) (net.Conn, error) { return t.dial(ctx, p.object.StartTimeout) }
	if err := s.carry(reach, first, p.cfg.Log); err != nil {
		first.Close()
		p.cfg.Log.Warn("callers not carried over to a simulation object", "address", addr, "err", err)
		return false
	}
	p.cfg.Log.Info("a simulation object listens at an address of its own; its callers are carried there", "service", s.service.Name, "address", addr)
	return true
}

// queue is what is seen of the queue of a listening socket.
type queue struct {
	last  int
	since time.Time // when it last moved
	moved bool      // somebody was taken from it
}

// look takes one look and returns for how long nobody was taken while somebody
// waited.
func (q *queue) look(n int, now time.Time) time.Duration {
	if n < q.last {
		q.moved = true
	}
	if n == 0 || n < q.last || q.last == 0 {
		q.since = now
	}
	q.last = n
	return now.Sub(q.since)
}

// limit is how long nobody may be taken: a program that has taken callers is
// given more time, since a queue that is always full does not show that it moves.
func (q *queue) limit(start time.Duration) time.Duration {
	if q.moved {
		return stallFactor * start
	}
	return start
}

// become turns this process into a program: argv begins with the memory limit.
func become(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want a memory limit and a command")
	}
	memory, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil || memory < 0 {
		return fmt.Errorf("memory limit %q: want a number of bytes", args[0])
	}
	path, err := exec.LookPath(args[1])
	if err != nil {
		return fmt.Errorf("%w; a program of the artifact is written ./%s, and is executable when the bundle is built", err, filepath.Base(args[1]))
	}
	if memory > 0 {
		if err := child.LimitMemory(memory); err != nil {
			return err
		}
	}
	env := append(os.Environ(), "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	return child.Become(path, args[1:], env)
}

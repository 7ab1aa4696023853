//go:build unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/beanstalkd/go-beanstalk"
)

// beanstalkd is a work queue in C, with a protocol of its own. It writes every job to its
// state before it acknowledges it, ends on the spot when it is told to, takes its listening
// socket as systemd gives it, or opens it, and is built by Debian.
var beanstalkd = realProgram{
	name: "beanstalkd", releases: [2]string{"1.12", "1.13"},
	debian: [2]debianPackage{
		{"beanstalkd_1.12-2%2bb1_amd64.deb", "4e304a28e87d0dc7581d213c6994b940b3d7a92056920a3107ef894e554ce44a"},
		{"beanstalkd_1.13-1_amd64.deb", "829a1b80a2a6b635dbb19173cad9298f398822325e23894e9a1b96f2269a0789"},
	},
	services: []realService{{"queue", "tcp"}},
	command:  `"-l", "${service.queue.host}", "-p", "${service.queue.port}", "-b", "${state}", "-f0"`,
	given:    `"-b", "${state}", "-f0"`,
	health:   `tcp = true`,
}

// TestRealBeanstalkd upgrades two beanstalkds while a real client puts jobs and works them
// off, at the public address and at that of version 1, for which the kernel has other ways.
// No connection that is made for one call fails; one that is kept ends once; every job
// whose put was acknowledged is there whole until its delete is, and never after.
func TestRealBeanstalkd(t *testing.T) {
	beanstalkd.eachReal(t, func(t *testing.T, r *realCluster) {
		l := newBeanLoad()
		r.upgrade(l)
		for i := range realNodes {
			for _, addr := range r.called(i) {
				beanServes(t, addr, beanstalkd.releases[1])
			}
			l.empty(r.public(i, 0))
			l.heldBack(r.public(i, 0))
		}
		for _, wrong := range l.lost() {
			t.Error(wrong)
		}
		t.Logf("%d jobs; %d kept connections ended and were made anew, %d of them before they were of use; of %d jobs nobody knows who deleted them", len(l.jobs), l.broken, l.early, l.unsure())
		r.well()
	})
}

func (l *beanLoad) start(r *realCluster) {
	for i := range realNodes {
		l.holdBack(r.public(i, 0))
		for j, addr := range r.called(i) {
			beanServes(r.t, addr, beanstalkd.releases[0])
			for _, keeps := range []bool{false, true} {
				name := fmt.Sprintf("n%d-%d-%s", i+1, j, beanTube(keeps))
				l.produce(&beanClient{load: l, name: name, addr: addr, keeps: keeps})
				l.consume(&beanClient{load: l, name: name, addr: addr, keeps: keeps})
			}
		}
	}
}

// beanServes checks which release answers at an address.
func beanServes(t *testing.T, addr, release string) {
	t.Helper()
	c := &beanClient{addr: addr}
	if err := c.dial(); err != nil {
		t.Error(err)
		return
	}
	defer c.hangUp()
	stats, err := c.conn.Stats()
	if got := strings.Trim(stats["version"], `"`); err != nil || got != release {
		t.Errorf("%s serves release %q, %v; want %s", addr, got, err, release)
	}
}

const (
	beanPace = 80 * time.Millisecond // of one client
	beanTry  = time.Minute           // for one call
	beanWait = time.Second           // for a job, by a worker that keeps its connection
	// beanMost is how many connections a client may lose that keeps them, at a node that is
	// upgraded once: the one that it has, and one that it makes while the old software still
	// takes any.
	beanMost = 2
)

// beanTube is where jobs wait for workers that keep their connection, or for the others.
func beanTube(keeps bool) string {
	if keeps {
		return "kept"
	}
	return "once"
}

// Where they wait for the end of the upgrade, and so go through the state.
const (
	beanLater = "later"
	beanAside = "aside"
)

// beanJob is a job, by what is known of it.
type beanJob struct {
	body  string
	put   bool // that was acknowledged
	tried bool // since it came last somebody may have asked for it to be deleted
	gone  bool // that was acknowledged
	there bool // it is there at the end, as it is to be
}

// beanLoad is clients that put jobs and work them off, and what they found.
type beanLoad struct {
	*realLoad

	jobs   map[string]*beanJob // mu; by the ID in their body
	broken int                 // mu; kept connections that ended
	early  int                 // mu; of them, before they were of use
}

func newBeanLoad() *beanLoad { return &beanLoad{realLoad: newRealLoad(), jobs: map[string]*beanJob{}} }

// beanClient makes calls to a server, each by a connection of its own, or all by one.
type beanClient struct {
	load       *beanLoad
	name, addr string
	keeps      bool

	conn *beanstalk.Conn // none before a call, or where it ended
	raw  net.Conn        // what it is made of
	used bool            // it has been of use
	lost int             // how many have ended
}

// dial connects. go-beanstalk's own function would do, but its calls wait for ever.
func (c *beanClient) dial() (err error) {
	if c.raw, err = net.DialTimeout("tcp", c.addr, beanTry); err == nil {
		c.conn, c.used = beanstalk.NewConn(c.raw), false
	}
	return err
}

func (c *beanClient) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *beanClient) once(do func(*beanstalk.Conn) (bool, error)) (bool, error) {
	if c.conn == nil {
		if err := c.dial(); err != nil {
			return false, err
		}
	}
	_ = c.raw.SetDeadline(time.Now().Add(beanTry))
	did, err := do(c.conn)
	c.used = c.used || err == nil
	if err != nil || !c.keeps {
		c.hangUp()
	}
	return did, err
}

// call makes a call, which reports whether it did what it is for, and makes it again where a
// kept connection ended. It reports the same, and whether the client may go on.
func (c *beanClient) call(what string, do func(*beanstalk.Conn) (bool, error)) (did, goOn bool) {
	for began := time.Now(); ; {
		did, err := c.once(do)
		switch {
		case err == nil && did:
			c.load.did(what+" at "+c.addr, time.Since(began))
			return true, true
		case err == nil:
			return false, true
		case !c.again(err):
			return false, false
		}
	}
}

// again notes a call that was not made, and reports whether it may be made anew.
func (c *beanClient) again(err error) bool {
	c.load.mu.Lock()
	defer c.load.mu.Unlock()
	fail := func(what string) {
		c.load.failed = append(c.load.failed, fmt.Sprintf("%s at %s: %s: %v", c.name, c.addr, what, err))
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		fail("a connection was refused")
		return false
	}
	if !c.keeps {
		fail("a call by a connection of its own failed")
		return false
	}
	if !slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE}, func(end error) bool { return errors.Is(err, end) }) {
		fail("a call failed")
		return false
	}
	c.load.broken++
	if !c.used {
		c.load.early++
	}
	if c.lost++; c.lost > beanMost {
		fail(fmt.Sprintf("%d connections ended, of which an upgrade explains %d; the last", c.lost, beanMost))
		return false
	}
	return true
}

// produce starts a client that puts jobs. One whose put was not acknowledged may be there
// or not, and is put again as another.
func (l *beanLoad) produce(c *beanClient) {
	l.goesOn("puts at " + c.addr)
	l.wg.Go(func() {
		defer c.hangUp()
		n := 0
		l.each(beanPace, func(i int) bool {
			tube := []string{beanTube(true), beanTube(false), beanLater}[i%3]
			_, goOn := c.call("puts", func(conn *beanstalk.Conn) (bool, error) {
				n++
				return true, l.put(conn, tube, c.name, n, 0)
			})
			return goOn
		})
	})
}

// put puts the n-th job of a client.
func (l *beanLoad) put(conn *beanstalk.Conn, tube, name string, n int, delay time.Duration) error {
	id := fmt.Sprintf("%s-%d", name, n)
	job := &beanJob{body: id + "\x00é✓\r\n" + strings.Repeat(id, n*37%64)}
	l.mu.Lock()
	l.jobs[id] = job
	l.mu.Unlock()
	if _, err := beanstalk.NewTube(conn, tube).Put([]byte(job.body), 1, delay, beanTry); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	job.put = true
	return nil
}

// consume starts a client that works jobs off, of those for clients of its kind.
func (l *beanLoad) consume(c *beanClient) {
	l.goesOn("deletes at " + c.addr)
	wait := time.Duration(0)
	if c.keeps {
		wait = beanWait
	}
	l.wg.Go(func() {
		defer c.hangUp()
		l.each(beanPace, func(int) bool {
			_, goOn := c.call("deletes", func(conn *beanstalk.Conn) (bool, error) { return l.work(conn, beanTube(c.keeps), wait) })
			return goOn
		})
	})
}

// work works one job off, and reports whether there was one.
func (l *beanLoad) work(conn *beanstalk.Conn, tube string, wait time.Duration) (bool, error) {
	number, body, err := beanstalk.NewTubeSet(conn, tube).Reserve(wait)
	if errors.Is(err, beanstalk.ErrTimeout) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	job := l.arrived(string(body))
	// A connection that ends before this is answered has taken no delete: the job comes again.
	if err := conn.Touch(number); err != nil {
		return false, err
	}
	l.know(func() { job.tried = true })
	if err := conn.Delete(number); err != nil {
		return false, err
	}
	l.know(func() { job.gone = true })
	return true, nil
}

// know notes something of a job.
func (l *beanLoad) know(what func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	what()
}

// arrived compares a job with what was put, and returns it.
func (l *beanLoad) arrived(body string) *beanJob {
	id, _, _ := strings.Cut(body, "\x00")
	l.mu.Lock()
	defer l.mu.Unlock()
	job := l.jobs[id]
	switch {
	case job == nil:
		l.failed = append(l.failed, fmt.Sprintf("job %q came, which nobody put", body))
		job = &beanJob{body: body}
	case job.body != body:
		l.failed = append(l.failed, fmt.Sprintf("job %s was put as %q and came as %q", id, job.body, body))
	case job.gone:
		l.failed = append(l.failed, fmt.Sprintf("job %s came after its delete was acknowledged", id))
	}
	job.tried = false // and so it was not carried out
	return job
}

// empty works off all that a server has.
func (l *beanLoad) empty(addr string) {
	c := &beanClient{load: l, name: "the last one", addr: addr}
	for _, tube := range []string{beanTube(true), beanTube(false), beanLater} {
		for more := true; more; {
			more, _ = c.call("last deletes", func(conn *beanstalk.Conn) (bool, error) { return l.work(conn, tube, 0) })
		}
	}
}

// holdBack has a server keep jobs that nobody gets: one for an hour, and one that a worker
// has put aside.
func (l *beanLoad) holdBack(addr string) {
	c := &beanClient{load: l, name: "held back", addr: addr}
	c.call("", func(conn *beanstalk.Conn) (bool, error) {
		if err := l.put(conn, beanAside, addr, 1, time.Hour); err != nil {
			return false, err
		}
		if err := l.put(conn, beanAside, addr, 2, 0); err != nil {
			return false, err
		}
		number, _, err := beanstalk.NewTubeSet(conn, beanAside).Reserve(0)
		if err != nil {
			return false, err
		}
		return false, conn.Bury(number, 1)
	})
}

// heldBack looks whether it still has them.
func (l *beanLoad) heldBack(addr string) {
	c := &beanClient{load: l, name: "held back", addr: addr}
	c.call("", func(conn *beanstalk.Conn) (bool, error) {
		tube := beanstalk.NewTube(conn, beanAside)
		for _, peek := range []func() (uint64, []byte, error){tube.PeekDelayed, tube.PeekBuried} {
			_, body, err := peek()
			if err != nil {
				return false, err
			}
			job := l.arrived(string(body))
			l.know(func() { job.there = true })
		}
		return false, nil
	})
}

// unsure counts the jobs that may have been deleted: they came no more, and nobody got an
// answer. A connection that ends leaves one at most.
func (l *beanLoad) unsure() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, job := range l.jobs {
		if job.tried && !job.gone {
			n++
		}
	}
	return n
}

// lost returns the jobs that were put, that nobody can have deleted since they came last, and
// that are not there.
func (l *beanLoad) lost() (problems []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, job := range l.jobs {
		if job.put && !job.tried && !job.there {
			problems = append(problems, fmt.Sprintf("job %s was acknowledged and is not there", id))
		}
	}
	slices.Sort(problems)
	return problems[:min(len(problems), 10)]
}

// TestRealBeanstalkdCatches runs its load against a server that errs.
func TestRealBeanstalkdCatches(t *testing.T) {
	for fault, want := range map[string]string{
		"":         "",
		"refused":  "a connection was refused",
		"closed":   "a call by a connection of its own failed",
		"cut":      "connections ended, of which an upgrade explains",
		"draining": "a call failed: put: draining",
		"lost":     "was acknowledged and is not there",
		"dropped":  "was acknowledged and is not there",
		"altered":  "was put as",
		"again":    "came after its delete was acknowledged",
		"strange":  "which nobody put",
		"kicked":   "peek-buried: not found",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			listener := nsqListener(t)
			server := &fakeBeans{fault: fault}
			var wg sync.WaitGroup
			wg.Go(func() { server.serve(listener) })
			addr := listener.Addr().String()
			if fault == "refused" {
				listener.Close()
			}
			l := newBeanLoad()
			l.holdBack(addr)
			for _, keeps := range []bool{false, true} {
				c := &beanClient{load: l, name: beanTube(keeps), addr: addr, keeps: keeps}
				for n := range 3 {
					c.call("puts", func(conn *beanstalk.Conn) (bool, error) {
						return true, l.put(conn, beanTube(keeps), c.name, n, 0)
					})
				}
				c.call("deletes", func(conn *beanstalk.Conn) (bool, error) { return l.work(conn, beanTube(keeps), beanWait) })
				c.hangUp()
			}
			l.empty(addr)
			l.heldBack(addr)
			listener.Close()
			wg.Wait()
			got := strings.Join(append(l.wrong(), l.lost()...), "\n")
			if want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("found %q, want %q", got, want)
			}
		})
	}
}

// fakeBeans answers as beanstalkd does, one caller after the other, but for one fault.
type fakeBeans struct {
	fault string
	jobs  []fakeBean // by number
	puts  int
	ends  bool // the connection, with the next answer
}

type fakeBean struct{ tube, state, body string }

func (b *fakeBeans) serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		lines, used, watched := bufio.NewReader(conn), "default", "default"
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break
			}
			words := strings.Fields(line)
			switch words[0] {
			case "use":
				used = words[1]
			case "watch":
				watched = words[1]
			}
			answer := b.answer(words, used, watched, lines)
			if answer == "" {
				break
			}
			_, _ = io.WriteString(conn, answer+"\r\n")
			if b.ends {
				b.ends = false
				break
			}
		}
		conn.Close()
	}
}

// answer carries a command out. An empty answer is a connection that is closed.
func (b *fakeBeans) answer(words []string, used, watched string, lines *bufio.Reader) string {
	number := func(i int) int { n, _ := strconv.Atoi(words[i]); return n }
	found := func(how, tube, state string) (int, string) {
		for n, job := range b.jobs {
			if job.tube == tube && job.state == state {
				return n, fmt.Sprintf("%s %d %d\r\n%s", how, n, len(job.body), job.body)
			}
		}
		return 0, "NOT_FOUND"
	}
	switch words[0] {
	case "put":
		body := make([]byte, number(4)+len("\r\n"))
		_, _ = io.ReadFull(lines, body)
		return b.put(fakeBean{used, map[bool]string{true: "ready", false: "delayed"}[words[2] == "0"], string(body[:number(4)])})
	case "reserve-with-timeout":
		n, answer := found("RESERVED", watched, "ready")
		if answer == "NOT_FOUND" {
			return "TIMED_OUT"
		}
		b.jobs[n].state = "reserved"
		if b.fault == "dropped" && watched == beanTube(true) { // once, and the worker's job is gone with its connection
			b.fault, b.ends = "", true
		}
		return answer
	case "touch":
		return "TOUCHED"
	case "delete":
		b.jobs[number(1)].state = "deleted"
		if b.fault == "again" && number(1) == 2 {
			b.fault, b.jobs[2].state = "", "ready"
		}
		return "DELETED"
	case "bury":
		b.jobs[number(1)].state = map[bool]string{false: "buried", true: "ready"}[b.fault == "kicked"]
		return "BURIED"
	case "peek-delayed", "peek-buried":
		_, answer := found("FOUND", used, strings.TrimPrefix(words[0], "peek-"))
		return answer
	default: // use, watch, ignore
		return "USING it"
	}
}

func (b *fakeBeans) put(job fakeBean) string {
	b.puts++
	switch n := b.puts; {
	case n == 4 && b.fault == "closed", n > 5 && b.fault == "cut":
		return ""
	case n > 5 && b.fault == "draining":
		return "DRAINING"
	case n == 4 && b.fault == "lost":
		return "INSERTED 1"
	case n == 4 && b.fault == "altered":
		job.body += "!"
	case n == 4 && b.fault == "strange":
		job.body = "!" + job.body
	}
	b.jobs = append(b.jobs, job)
	return fmt.Sprintf("INSERTED %d", len(b.jobs)-1)
}

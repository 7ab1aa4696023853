package udpkv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxCallers bounds the callers that an object knows; more hear nothing.
	maxCallers = 1000
	// idle is how long it knows one that says nothing.
	idle = time.Minute
)

// object answers callers of one version by calls of another.
type object struct {
	conn     *net.UDPConn
	next     string
	from, to words
	reason   string // why what has no word is denied
	work     sync.WaitGroup

	mu      sync.Mutex
	callers map[netip.AddrPort]net.Conn // mu; nil once it ends
}

// inherited returns the socket of a service that the process was started with.
func inherited(service string, getenv func(string) string) (*net.UDPConn, error) {
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("no sockets were handed over")
	}
	const first = 3
	for i, name := range strings.Split(getenv("LISTEN_FDNAMES"), ":") {
		if name != service {
			continue
		}
		f := os.NewFile(uintptr(first+i), name)
		defer f.Close()
		c, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		return c.(*net.UDPConn), nil
	}
	return nil, fmt.Errorf("no socket was handed over for service %q", service)
}

func (o *object) serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, o.close)()
	defer o.work.Wait()
	defer o.close()
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := o.conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		m, ok := translate(parse(buf[:n]), o.from, o.to)
		if !ok {
			_, _ = o.conn.WriteToUDPAddrPort(m.failure(o.reason).bytes(), from)
			continue
		}
		if up := o.caller(from); up != nil {
			_, _ = up.Write(m.bytes())
		}
	}
}

func (o *object) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conn.Close()
	for _, up := range o.callers {
		up.Close()
	}
	o.callers = nil
}

// caller returns the socket of a caller's to what is next.
func (o *object) caller(from netip.AddrPort) net.Conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	if up := o.callers[from]; up != nil {
		return up
	}
	if o.callers == nil || len(o.callers) == maxCallers {
		return nil
	}
	up, err := net.Dial("udp", o.next)
	if err != nil {
		return nil
	}
	o.callers[from] = up
	o.work.Go(func() { o.back(from, up) })
	return up
}

// back takes answers back to a caller.
func (o *object) back(to netip.AddrPort, up net.Conn) {
	defer func() {
		o.mu.Lock()
		if o.callers[to] == up {
			delete(o.callers, to)
		}
		o.mu.Unlock()
		up.Close()
	}()
	buf := make([]byte, maxDatagram)
	for {
		_ = up.SetReadDeadline(time.Now().Add(idle))
		n, err := up.Read(buf)
		if err != nil {
			return
		}
		m, ok := translate(parse(buf[:n]), o.to, o.from)
		if !ok {
			m = m.failure("what is next answers " + m.word)
		}
		_, _ = o.conn.WriteToUDPAddrPort(m.bytes(), to)
	}
}

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"moult/simlayer/attach"
)

// packetBridge carries packets to a target, each caller's by a socket of its own,
// and the answers back. What comes while there is no target is dropped, as the
// network would.
type packetBridge struct {
	*target
	conn *net.UDPConn
	work sync.WaitGroup

	mu       sync.Mutex
	sessions map[netip.AddrPort]*net.UDPConn // nil once closed
}

func newPacketBridge(t *target) (*packetBridge, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("address of what a simulation object calls next: %w", err)
	}
	p := &packetBridge{target: t, conn: conn, sessions: map[netip.AddrPort]*net.UDPConn{}}
	p.work.Go(p.forward)
	return p, nil
}

func (p *packetBridge) forward() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := p.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier packet
		}
		if up := p.session(from); up != nil {
			_, _ = up.Write(buf[:n]) // packets may be lost
		}
	}
}

// session returns the socket of a caller, or nil where there is no target.
func (p *packetBridge) session(from netip.AddrPort) *net.UDPConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	addr, _ := p.get()
	if up := p.sessions[from]; up != nil && up.RemoteAddr().String() == addr {
		return up
	} else if up != nil {
		up.Close() // its target has changed
		delete(p.sessions, from)
	}
	if p.sessions == nil || addr == "" || len(p.sessions) == maxSessions {
		return nil
	}
	// Marked, to come to the node also where its callers are held.
	d := net.Dialer{ControlContext: attach.DialControl}
	conn, err := d.Dial("udp", addr)
	if err != nil {
		return nil
	}
	up := conn.(*net.UDPConn)
	p.sessions[from] = up
	p.work.Go(func() { p.back(from, up) })
	return up
}

// back carries answers to a caller until it has been silent for a while.
func (p *packetBridge) back(to netip.AddrPort, up *net.UDPConn) {
	defer func() {
		p.mu.Lock()
		if p.sessions[to] == up {
			delete(p.sessions, to)
		}
		p.mu.Unlock()
		up.Close()
	}()
	buf := make([]byte, maxPacket)
	for {
		_ = up.SetReadDeadline(time.Now().Add(sessionIdle))
		n, err := up.Read(buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err == nil {
			_, _ = p.conn.WriteToUDPAddrPort(buf[:n], to)
		}
	}
}

func (p *packetBridge) close() {
	p.conn.Close()
	p.mu.Lock()
	for _, up := range p.sessions {
		up.Close()
	}
	p.sessions = nil
	p.mu.Unlock()
	p.work.Wait()
}

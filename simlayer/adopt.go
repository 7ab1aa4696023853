package simlayer

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"moult/simlayer/attach"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// bindSocket opens the socket of an address of TCP: one of a pair where the node has, or
// is to get, the other.
func (l *Layer) bindSocket(s *service, label bundle.Version, addr string) (net.Listener, *attach.Pair, error) {
	pair, err := l.adoptPair(s, label, addr)
	if err == nil && pair == nil {
		if s.Attach != AttachInherit || label == 0 {
			ln, err := l.listenStream(keptName(s, label), addr)
			return ln, nil, err
		}
		pair, err = l.listenPair(s, label, addr)
	}
	if err != nil {
		return nil, nil, err
	}
	ln := pair.Agent()
	if ln == nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: the running software has a socket of UDP there: stop it first", addr), pair.Close())
	}
	l.keep(keptName(s, label), pair.Hold)
	return ln, pair, nil
}

// adoptPair takes back the sockets of an address that an earlier layer gave to
// software which still runs; nil where there are none. It does so whatever the
// service's attach is now: the software keeps them until it is started anew.
func (l *Layer) adoptPair(s *service, label bundle.Version, addr string) (*attach.Pair, error) {
	i := slices.IndexFunc(l.known, func(k Inherited) bool { return k.of(s, label, addr) })
	if i < 0 {
		return nil, nil
	}
	k := l.known[i]
	if k.Members.Node == 0 {
		return l.adoptOpen(k)
	}
	files, err := attach.TakeCookies(l.cfg.Processes, k.Members.Node, k.Members.Agent)
	if err != nil {
		return nil, fmt.Errorf("the running software has %s: %w", k.Addr, err)
	}
	defer func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close() // the pair has its own
			}
		}
	}()
	if files[0] == nil && files[1] == nil {
		return nil, nil
	}
	pair, err := attach.AdoptPair(l.ctx, k.Addr, k.Members, files[0], files[1])
	if err == nil && files[0] != nil {
		l.given = label
	}
	return pair, err
}

// adoptOpen is adoptPair for software that was to open the socket by itself.
func (l *Layer) adoptOpen(k Inherited) (*attach.Pair, error) {
	files, err := attach.TakeCookies(l.cfg.Processes, k.Members.Agent)
	if err != nil {
		return nil, fmt.Errorf("the running software holds the agent's socket of %s: %w", k.Addr, err)
	}
	if held := files[0]; held != nil {
		defer held.Close() // the pair has its own
		l.given = k.Version
		return attach.AdoptOpen(l.ctx, k.Addr, held)
	}
	at, err := addrPort(k.Addr)
	if err != nil {
		return nil, err
	}
	// It has closed what it did not know. Its own then has the first place, and must
	// keep it: so from now on it is held here.
	node, err := attach.TakeOther(l.cfg.Processes, "udp", at, k.Members.Agent)
	if errors.Is(err, attach.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer node.Close()
	l.given = k.Version
	return attach.AdoptPair(l.ctx, k.Addr, attach.Members{}, node, nil)
}

// of reports whether k is the socket for callers of a version of a service, which
// is to be bound at addr, perhaps with any port.
func (k Inherited) of(s *service, label bundle.Version, addr string) bool {
	if k.Service != s.name || k.Version != label {
		return false
	}
	host, _, err := stream.SplitAddr(k.Addr)
	return k.Addr == addr || err == nil && s.versionPort(label) == 0 && host == s.host()
}

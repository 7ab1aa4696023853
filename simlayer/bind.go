package simlayer

import (
	"fmt"
	"maps"
	"slices"

	"moult/store/bundle"
)

// bind makes the listeners that are missing for these versions, all or none.
// They accept nothing until they serve.
func (l *Layer) bind(versions []bundle.Version) (fresh []*listener, err error) {
	defer func() {
		if err != nil {
			for _, f := range fresh {
				l.forget(f)
			}
			fresh = nil
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(l.services)) {
		s := l.services[name]
		if err := s.apartVersions(versions); err != nil {
			return nil, fmt.Errorf("service %q: %w", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.services)) {
		s := l.services[name]
		for _, v := range versions {
			if l.has(s, v) {
				continue
			}
			if port := s.versionPort(v); port != 0 {
				l.evict(s, port, versions)
			}
			f, err := l.bindListener(s, v, s.versionAddr(v))
			if err != nil {
				return fresh, fmt.Errorf("service %q: listen for callers of version %d: %w", name, v, err)
			}
			fresh = append(fresh, f)
		}
	}
	return fresh, nil
}

// evict closes a listener of a version that is going, whose port a coming one
// needs.
func (l *Layer) evict(s *service, port int, keep []bundle.Version) {
	l.mu.Lock()
	var gone *listener
	for v, old := range s.versioned {
		if s.versionPort(v) == port && !slices.Contains(keep, v) && !l.lent(old) {
			gone = old
			delete(s.versioned, v)
		}
	}
	l.mu.Unlock()
	if gone != nil {
		l.retireOne(gone)
	}
}

func (l *Layer) retireOne(f *listener) {
	l.endStrays(func(s stray) bool { return s.at == f })
	f.retire()
}

// forget closes a listener that never served.
func (l *Layer) forget(f *listener) {
	l.mu.Lock()
	delete(f.service.versioned, f.Label)
	l.mu.Unlock()
	f.close()
}

// listen binds an address and serves it.
func (l *Layer) listen(s *service, label bundle.Version, addr string) (*listener, error) {
	f, err := l.bindListener(s, label, addr)
	if err == nil {
		f.serve()
	}
	return f, err
}

// bindListener binds an address. Callers who connect before serve wait.
func (l *Layer) bindListener(s *service, label bundle.Version, addr string) (*listener, error) {
	var f *listener
	var err error
	if s.Protocol == bundle.ProtocolUDP {
		f, err = l.bindPackets(s, label, addr)
	} else {
		f, err = l.bindStream(s, label, addr)
	}
	if err != nil {
		return nil, err
	}
	if label != 0 {
		l.mu.Lock()
		s.versioned[label] = f
		l.mu.Unlock()
	}
	return f, nil
}

// bindStream binds an address of a TCP service.
func (l *Layer) bindStream(s *service, label bundle.Version, addr string) (*listener, error) {
	ln, pair, err := l.bindSocket(s, label, addr)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: ln, Port: l.openPort(s, label, ln.Addr()), layer: l, service: s, pair: pair}, nil
}

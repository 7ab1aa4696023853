package simlayer

import (
	"fmt"
	"maps"
	"slices"
)

// speak opens services anew that turn out to have another protocol than they were
// opened for: a node that is yet to be installed may know only from its first
// release what its services speak. Nobody was answered there until now; callers
// who wait at the old sockets are lost, since they cannot be understood. It is
// called with apply held.
func (l *Layer) speak(protocols map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(protocols)) {
		s, protocol := l.services[name], protocols[name]
		if s == nil || protocol == s.Protocol {
			continue
		}
		changed := s.Service
		changed.Protocol = protocol
		if err := changed.validate(); err != nil {
			return fmt.Errorf("service %q: %w", name, err)
		}
		l.silence(s)
		l.log.Info("a service has another protocol than it was opened for", "service", name, "was", s.Protocol, "is", protocol)
		was := s.Service
		s.Service, l.cfg.Services[name] = changed, changed
		public, err := l.listen(s, 0, s.Public)
		if err != nil {
			s.Service, l.cfg.Services[name] = was, was // the next Apply tries again
			return fmt.Errorf("service %q: listen on its public address again: %w", name, err)
		}
		l.mu.Lock()
		s.public = public
		l.mu.Unlock()
	}
	return nil
}

// silence closes all sockets of a service, and their connections.
func (l *Layer) silence(s *service) {
	l.mu.Lock()
	old := []*listener{s.public}
	for _, f := range s.versioned {
		old = append(old, f)
	}
	clear(s.versioned)
	l.mu.Unlock()
	for _, f := range old {
		f.close()
	}
}

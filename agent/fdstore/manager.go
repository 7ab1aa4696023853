package fdstore

import "os"

// managerVar names the socket of the service manager (sd_notify(3)).
const managerVar = "NOTIFY_SOCKET"

// tell gives a socket to the service manager, or has it close the one that it has by this
// name, if there is a manager. One that keeps none passes over it.
func (s *Store) tell(name string, f *os.File) {
	if s.manager == "" {
		return
	}
	text := "FDSTOREREMOVE=1\nFDNAME=" + name
	if f != nil {
		// FDPOLL=0: whether a listening socket looks ended to the manager is of no interest.
		text = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name
	}
	if err := send(s.manager, text, f); err != nil {
		s.log.Warn("the service manager was not told of a socket", "name", name, "err", err)
	}
}

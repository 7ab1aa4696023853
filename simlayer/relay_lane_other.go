//go:build !linux

package simlayer

import (
	"net"
)

// lanes: there are none on this system.
type lanes struct{}

func hasLanes() bool { return false }

func (*lanes) serve(*rest) {}

func dupOf(net.Conn) (int, bool) { return 0, false }

func stopReading(int) error { return nil }

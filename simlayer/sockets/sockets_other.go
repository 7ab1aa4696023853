//go:build !linux

package sockets

import "net/netip"

// Others returns the connections past the layer: elsewhere than on Linux there are none,
// since all callers are relayed.
func Others([]netip.AddrPort) ([]Conn, error) { return nil, nil }

package observe

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// States of a TCP connection in which a call may still come by it, as the kernel's
// tables have them.
var openStates = [...]string{"01" /* established */, "03" /* SYN received */, "08" /* close wait */}

// ConnectionsOfOthers counts the connections that callers have to these addresses
// and this process has not.
func ConnectionsOfOthers(addrs []netip.AddrPort) (int, error) {
	at := map[netip.AddrPort]bool{}
	for _, a := range addrs {
		at[netip.AddrPortFrom(a.Addr().Unmap(), a.Port())] = true
	}
	own, err := ownSockets()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if os.IsNotExist(err) {
			continue // no IPv6 here
		}
		if err != nil {
			return 0, fmt.Errorf("look for connections past the layer: %w", err)
		}
		m, err := countOthers(f, at, own)
		f.Close()
		if err != nil {
			return 0, fmt.Errorf("look for connections past the layer: %s: %w", table, err)
		}
		n += m
	}
	return n, nil
}

// ownSockets returns the inodes of this process's sockets.
func ownSockets() (map[string]bool, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for connections past the layer: %w", err)
	}
	own := map[string]bool{}
	for _, e := range entries {
		// One that is gone by now is nobody's.
		if to, err := os.Readlink(dir + "/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:[") {
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	return own, nil
}

// countOthers counts the connections in a table of the kernel's whose local address
// is among at, and of which this process has neither end: own are its sockets.
func countOthers(table io.Reader, at map[netip.AddrPort]bool, own map[string]bool) (n int, err error) {
	type ends struct{ local, remote netip.AddrPort }
	ours, others := map[ends]bool{}, []ends{}
	lines := bufio.NewScanner(table)
	lines.Scan() // the headings
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || !slices.Contains(openStates[:], f[3]) {
			continue
		}
		var e ends
		if e.local, err = kernelAddr(f[1]); err == nil {
			e.remote, err = kernelAddr(f[2])
		}
		if err != nil {
			return 0, err
		}
		switch {
		case own[f[9]]:
			ours[ends{e.remote, e.local}] = true
		case at[e.local] || at[netip.AddrPortFrom(netip.IPv4Unspecified(), e.local.Port())] || at[netip.AddrPortFrom(netip.IPv6Unspecified(), e.local.Port())]:
			others = append(others, e)
		}
	}
	for _, e := range others {
		if !ours[e] {
			n++
		}
	}
	return n, lines.Err()
}

// kernelAddr reads an address as the kernel's tables have it: words of four bytes
// in the machine's order, which is little-endian wherever this runs, in
// hexadecimal, and the port.
func kernelAddr(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %.40q", text)
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	ip, _ := netip.AddrFromSlice(raw)
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %.40q", text)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), nil
}

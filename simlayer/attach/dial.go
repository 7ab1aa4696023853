package attach

import (
	"context"
	"net"
	"strings"
	"time"
)

// dialTimeout bounds the time that a connection takes to come about.
const dialTimeout = 5 * time.Second

// Dial connects to "unix:/path" or to "host:port". Where the agent has a socket of
// the same address, it reaches the node's: calls that are on must end while those
// that come are held.
func Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, ControlContext: DialControl}
	d.SetMultipathTCP(false)
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return d.DialContext(ctx, "unix", path)
	}
	return d.DialContext(ctx, "tcp", addr)
}

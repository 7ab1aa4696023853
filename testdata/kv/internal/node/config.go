// Package node is what the versions of kv share and no caller sees: flags, a
// clean end on SIGTERM, JSON over HTTP, keys, and asking the peers.
package node

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
)

// Limits that hold for every version.
const (
	MaxKey   = 80      // bytes of a key
	MaxValue = 1 << 20 // bytes of a value
	MaxBody  = 8 << 20 // bytes of a request's or an answer's body
	maxPeers = 1000    // peers that one miss asks
)

// DefaultDrain is how long calls may go on after SIGTERM where no flag says.
const DefaultDrain = 30 * time.Second

// Config is how one node runs.
type Config struct {
	// Listen is the host:port, or unix:PATH, to serve on. A program that was
	// given a listening socket (sd_listen_fds(3)) serves on that instead.
	Listen string
	// State is the folder of the values; it is made if it is missing.
	State string
	// Peers are the host:port of other nodes, which a node asks for keys that
	// it does not have. A node may be named in its own list.
	Peers []string
	// Proxy carries the calls to the peers; nil is none.
	Proxy *url.URL
	// Resolve asks the agent beside this node where its peers answer its version,
	// and calls them there, past any Proxy.
	Resolve bool
	// NoSync acknowledges writes before they are durable.
	NoSync bool
	// FailEvery has every so many-th call fail; 0 has none.
	FailEvery int
	// DrainTimeout is how long calls may go on after SIGTERM.
	DrainTimeout time.Duration
}

// ParseConfig reads flags and environment. What is wrong, and the usage, goes
// to out. The error is flag.ErrHelp where help was all that was asked for.
//
// KV_RESOLVE, if it is not empty, sets Resolve. The proxy comes from HTTP_PROXY alone: Go's own http.ProxyFromEnvironment
// goes around the proxy for addresses on loopback, and a node that is tried on
// one machine should call its peers as it does in production.
func ParseConfig(name string, args []string, getenv func(string) string, out io.Writer) (Config, error) {
	var c Config
	var peers string
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&c.Listen, "listen", "", "`host:port` to serve on")
	flags.StringVar(&c.State, "state", "", "`folder` of the values")
	flags.StringVar(&peers, "peers", getenv("KV_PEERS"), "other nodes, `host:port,host:port,…` (or $KV_PEERS)")
	flags.BoolVar(&c.NoSync, "no-sync", false, "acknowledge writes before they are durable (for tests)")
	flags.IntVar(&c.FailEvery, "fail-every", 0, "every so many-th call fails (for tests)")
	flags.DurationVar(&c.DrainTimeout, "drain-timeout", DefaultDrain, "how long calls may go on after SIGTERM")
	if err := flags.Parse(args); err != nil {
		return Config{}, err
	}
	if flags.NArg() > 0 {
		return c, complain(out, name, fmt.Errorf("unexpected argument %q: all settings are flags, see %s -h", flags.Arg(0), name))
	}
	c.Resolve = getenv("KV_RESOLVE") != ""
	for p := range strings.SplitSeq(peers, ",") {
		if p = strings.TrimSpace(p); p != "" {
			c.Peers = append(c.Peers, p)
		}
	}
	var err error
	if c.Proxy, err = parseProxy(getenv); err == nil {
		err = c.validate()
	}
	return c, complain(out, name, err)
}

// parseProxy returns nil where the environment names no proxy.
func parseProxy(getenv func(string) string) (*url.URL, error) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy"} {
		v := getenv(name)
		if v == "" {
			continue
		}
		if !strings.Contains(v, "://") {
			v = "http://" + v
		}
		u, err := url.Parse(v)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("%s=%q: want a URL such as http://127.0.0.1:3128", name, v)
		}
		return u, nil
	}
	return nil, nil
}

func (c Config) validate() error {
	if c.Listen == "" || c.State == "" {
		return errors.New("need both --listen host:port and --state folder")
	}
	if c.FailEvery < 0 {
		return fmt.Errorf("--fail-every %d: want at least 0", c.FailEvery)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("--listen %q: want host:port: %w", c.Listen, err)
	}
	if len(c.Peers) > maxPeers {
		return fmt.Errorf("--peers: %d nodes, at most %d", len(c.Peers), maxPeers)
	}
	for _, p := range c.Peers {
		if _, _, err := net.SplitHostPort(p); err != nil {
			return fmt.Errorf("--peers: %q: want host:port: %w", p, err)
		}
	}
	return nil
}

// complain prints err, if any, and returns it.
func complain(out io.Writer, name string, err error) error {
	if err != nil {
		fmt.Fprintf(out, "%s: %v\n", name, err)
	}
	return err
}

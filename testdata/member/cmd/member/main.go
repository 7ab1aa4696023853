// Command member is node software that is a member of a ring by memberlist, which
// listens on one port for both TCP and UDP. What it sees of the ring stands in the file
// events of its state: joins and leaves, and that it has heard each member by each network.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "member:", err)
		os.Exit(1)
	}
}

// member is what memberlist tells and asks; its methods are called by many goroutines.
type member struct {
	name, version string

	mu     sync.Mutex
	events *os.File        // guarded by mu
	heard  map[string]bool // guarded by mu
}

func (m *member) say(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	if strings.HasPrefix(line, "heard ") && m.heard[line] {
		return
	}
	m.heard[line] = true
	fmt.Fprintf(m.events, "v%s %s\n", m.version, line)
}

func (m *member) NotifyJoin(n *memberlist.Node)   { m.say("join %s v%s", n.Name, n.Meta) }
func (m *member) NotifyLeave(n *memberlist.Node)  { m.say("leave %s v%s", n.Name, n.Meta) }
func (m *member) NotifyUpdate(n *memberlist.Node) { m.say("update %s v%s", n.Name, n.Meta) }

func (m *member) NodeMeta(int) []byte                { return []byte(m.version) }
func (m *member) NotifyMsg(b []byte)                 { m.say("heard %s", b) }
func (m *member) GetBroadcasts(int, int) [][]byte    { return nil }
func (m *member) LocalState(bool) []byte             { return nil }
func (m *member) MergeRemoteState(b []byte, by bool) {}

func run(args []string) error {
	fs := flag.NewFlagSet("member", flag.ExitOnError)
	version := fs.String("version", "", "of this program")
	state := fs.String("state", "", "the `folder` of the events")
	host := fs.String("host", "", "to listen on")
	port := fs.Int("port", 0, "to listen on")
	label := fs.String("label", "", "of the ring")
	name := fs.String("name", "", "in the ring")
	advertise := fs.String("advertise", "", "`host:port` that others dial")
	join := fs.String("join", "", "`host:port` of others")
	if err := fs.Parse(args); err != nil {
		return err
	}
	events, err := os.OpenFile(filepath.Join(*state, "events"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer events.Close()
	m := &member{name: *name, version: *version, events: events, heard: map[string]bool{}}
	at, dialed, err := net.SplitHostPort(*advertise)
	if err != nil {
		return err
	}
	cfg := memberlist.DefaultLANConfig()
	cfg.Name, cfg.Label, cfg.LogOutput = *name, *label, io.Discard
	cfg.BindAddr, cfg.BindPort = *host, *port
	cfg.AdvertiseAddr = at
	if cfg.AdvertisePort, err = strconv.Atoi(dialed); err != nil {
		return err
	}
	cfg.SuspicionMult = 20 // a node that is upgraded is held for seconds, and is no dead one
	cfg.ProbeTimeout = 2 * cfg.ProbeTimeout
	cfg.Events, cfg.Delegate = m, m
	ring, err := memberlist.Create(cfg)
	if err != nil {
		return err
	}
	defer ring.Shutdown()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return nil // without leaving: it is back at once
		case <-tick.C:
		}
		if ring.NumMembers() == 1 {
			_, _ = ring.Join(strings.Split(*join, ",")) // again, if none answers yet
		}
		for _, n := range ring.Members() {
			if n.Name == *name {
				continue
			}
			_ = ring.SendBestEffort(n, []byte("udp "+*name+" v"+*version))
			_ = ring.SendReliable(n, []byte("tcp "+*name+" v"+*version))
		}
	}
}

package gossip

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"moult/store/bundle"
)

// Serf tags of moult's own.
const (
	tagID     = "id" // NodeID in hexadecimal
	tagFormat = "f"  // format of rumours and peer requests
	format    = "1"
)

// Status is a member's state in the ring. It is for people and for pacing:
// never evidence of what a node does.
type Status string

// The states that Serf tells apart.
const (
	StatusAlive   Status = "alive"
	StatusLeaving Status = "leaving"
	StatusLeft    Status = "left"
	StatusFailed  Status = "failed"
)

// A Member is one agent of the ring.
type Member struct {
	Name   string
	ID     bundle.NodeID
	Addr   string // host:port, as advertised
	Status Status
	Tags   map[string]string // Config.Tags of that agent
}

// memberOf reads a member as Serf knows it.
func memberOf(m serf.Member) (Member, error) {
	id, err := bundle.ParseNodeID(m.Tags[tagID])
	if err != nil {
		return Member{}, fmt.Errorf("member %.140q: %w", m.Name, err)
	}
	tags := make(map[string]string, len(m.Tags))
	for k, v := range m.Tags {
		if k != tagID && k != tagFormat {
			tags[k] = v
		}
	}
	out := Member{Name: m.Name, ID: id, Tags: tags,
		Addr: net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port)))}
	switch m.Status {
	case serf.StatusLeaving:
		out.Status = StatusLeaving
	case serf.StatusLeft:
		out.Status = StatusLeft
	case serf.StatusFailed:
		out.Status = StatusFailed
	default:
		out.Status = StatusAlive
	}
	return out, nil
}

// ringConfig makes Serf's and memberlist's settings anew: both change what
// they are given.
func ringConfig(cfg Config, t *transport, self bundle.NodeID, packetKeys [][]byte) (*serf.Config, error) {
	tags := map[string]string{tagID: self.String(), tagFormat: format}
	for k, v := range cfg.Tags {
		tags[k] = v
	}
	logger := log.New(newRingLog(t.ctx, cfg.Log), "", 0)

	keyring, err := memberlist.NewKeyring(packetKeys, packetKeys[0])
	if err != nil {
		return nil, err
	}
	ml := memberlist.DefaultLANConfig()
	ml.Transport = t
	ml.Label = cfg.Cluster.Hex()[:16]
	ml.SecretKey, ml.Keyring = packetKeys[0], keyring
	ml.AdvertiseAddr = t.advertise.IP.String()
	ml.AdvertisePort = t.advertise.Port
	ml.BindAddr = t.advertise.IP.String()
	ml.BindPort = t.advertise.Port
	ml.EnableCompression = false // costs more than it saves, and unpacks what peers send
	ml.DeadNodeReclaimTime = time.Second
	ml.Logger, ml.LogOutput = logger, nil

	c := serf.DefaultConfig()
	c.NodeName = cfg.Name
	c.Tags = tags
	c.MemberlistConfig = ml
	c.Logger, c.LogOutput = logger, nil
	c.EnableNameConflictResolution = false // it shuts the minority down
	c.ValidateNodeNames = true
	c.DisableCoordinates = true
	c.BroadcastTimeout = broadcastTimeout
	c.LeavePropagateDelay = leavePropagateDelay
	c.ReconnectInterval = 10 * time.Second
	return c, nil
}

// delegate stands before Serf's own, so that packets of ours can share
// memberlist's socket and encryption.
type delegate struct {
	memberlist.Delegate
	rumour func(packet []byte) // owns packet
}

func (d *delegate) NotifyMsg(b []byte) {
	if len(b) > 0 && b[0] == rumourMessage {
		d.rumour(bytes.Clone(b))
		return
	}
	d.Delegate.NotifyMsg(b)
}

// startRing creates Serf over the transport.
//
// Serf has no hook for other users of its memberlist, so the delegate is put
// in front of Serf's in the transport's FinalAdvertiseAddr: memberlist calls
// it after Serf has set its own delegate and before any goroutine starts.
// TestDelegateOrder holds the pinned versions to that.
func (g *Gossip) startRing(packetKeys [][]byte) error {
	conf, err := ringConfig(g.cfg, g.transport, g.self, packetKeys)
	if err != nil {
		return fmt.Errorf("starting the ring: %w", err)
	}
	conf.EventCh = g.events
	conf.Merge = mergeGuard{g.guard, g.mail.conflict}
	ml := conf.MemberlistConfig
	g.transport.attach = func() { ml.Delegate = &delegate{ml.Delegate, g.receiveRumour} }
	g.transport.start()
	ring, err := serf.Create(conf)
	if err != nil {
		return fmt.Errorf("starting the ring at %s: %w", g.transport.advertise, err)
	}
	g.serf = ring
	return nil
}

// ringLog routes Serf's and memberlist's logs into slog. Their levels are
// lowered: what they call an error is mostly a peer that went away, and what
// they warn of is either reported by this package itself or no news. What a packet or a
// stream has them say, anybody can have them say again and again: of that there is a line
// now and then, with a count.
type ringLog struct {
	ctx     context.Context // of the transport: what they say after its end is noise
	log     *slog.Logger
	inbound *Quiet
}

func newRingLog(ctx context.Context, log *slog.Logger) *ringLog {
	return &ringLog{ctx: ctx, log: log, inbound: &Quiet{Every: logInterval}}
}

func (l *ringLog) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	level := slog.LevelInfo
	for _, prefix := range []struct {
		text  string
		level slog.Level
	}{
		{"[ERR] ", slog.LevelInfo}, {"[ERROR] ", slog.LevelInfo}, {"[WARN] ", slog.LevelDebug},
		{"[INFO] ", slog.LevelDebug}, {"[DEBUG] ", slog.LevelDebug - 4},
	} {
		if rest, ok := strings.CutPrefix(text, prefix.text); ok {
			text, level = rest, prefix.level
			break
		}
	}
	if l.ctx.Err() != nil || !l.log.Enabled(l.ctx, level) {
		return len(p), nil
	}
	if strings.Contains(text, "from=") { // as memberlist names whom it heard
		l.inbound.Log(l.log, level, "ring", "says", text)
	} else {
		l.log.Log(l.ctx, level, "ring", "says", text)
	}
	return len(p), nil
}

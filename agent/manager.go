package agent

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"moult/agent/upgrade"
	"moult/gossip/view"
)

// manager is the service manager that has started this agent, as systemd does: it is told
// when the agent is up, how its node is, and that the loop still turns (sd_notify(3)). The
// loop does not wait for it. Where there is none it is nil, and nothing is done for it.
type manager struct {
	messages chan string
	every    time.Duration // it wants a sign of life so often; 0: never
	next     time.Time     // when to give the next
	said     string        // of the node
}

// newManager returns the manager, which is told beside the loop.
func newManager(log *slog.Logger) *manager {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog gets no sign of life", "err", err)
	}
	m := &manager{messages: make(chan string, 1), every: limit / 2}
	go func() {
		for text := range m.messages {
			if _, err := daemon.SdNotify(false, text); err != nil {
				log.Debug("the service manager was not told", "text", text, "err", err)
			}
		}
	}()
	return m
}

func (m *manager) close() {
	if m != nil {
		close(m.messages)
	}
}

// tell reports whether a message is on its way: none is while one is.
func (m *manager) tell(text string) bool {
	select {
	case m.messages <- text:
		return true
	default:
		return false
	}
}

// alive says that the loop still turns, and what has changed of the node.
func (m *manager) alive(now time.Time, line string) {
	text := ""
	if line != m.said {
		text = "READY=1\nSTATUS=" + line // that it is ready is said once more, at no cost
	}
	if m.every > 0 && !now.Before(m.next) {
		text += "\n" + daemon.SdNotifyWatchdog
	}
	if text != "" && m.tell(text) {
		m.said, m.next = line, now.Add(m.every)
	}
}

// line is the node in one line: what others wrote cannot tell the manager more than that.
func (l *loop) line() string {
	s := l.saved
	text := "nothing is installed"
	if s.Running != 0 {
		text = fmt.Sprintf("version %d", s.Running)
	}
	if s.Phase != upgrade.Current {
		text += ", " + string(s.Phase)
		if s.Goal != 0 {
			text += fmt.Sprintf(" (release %d)", s.Goal)
		}
	}
	reason := s.Reason
	if reason == "" && s.Phase == upgrade.Waiting {
		reason = l.node.Waits().Text
	}
	if reason != "" {
		text += ": " + reason
	}
	if n := len(l.node.Alarms()); n != 0 {
		text += fmt.Sprintf("; alarms: %d, see moult status", n)
	}
	return view.OneLine(text, maxLine)
}

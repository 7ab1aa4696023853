//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"

	"moult/agent/control"
)

// nsqd keeps messages in memory, and writes them to its state when it is told to end:
// what it has acknowledged is lost where it is not let end, or where its state is not
// taken along. Its connections last, and none of them survives it.
var nsqd = realProgram{
	name: "nsqd", module: "github.com/nsqio/nsq", pkg: "/apps/nsqd",
	replace:  "replace github.com/judwhite/go-svc => github.com/mreiferson/go-svc v1.2.2-0.20210815184239-7a96e00010f6",
	releases: [2]string{"v1.2.1", "v1.3.0"},
	services: []realService{{"tcp", "tcp"}, {"http", "http"}},
	command:  `"-tcp-address=${service.tcp}", "-http-address=${service.http}", "-data-path=${state}", "-log-level=warn"`,
	health:   "http = \"/ping\"\n      service = \"http\"",
}

// nsqChannels each get every message: one is read all the time, the other only after
// the upgrade, so that what is in it has to go through nsqd's state.
var nsqChannels = [...]string{"now", "later"}

// TestRealNSQD upgrades two nsqds while real clients publish to them and consume: every
// message that was acknowledged arrives whole, and nobody's connection is refused.
func TestRealNSQD(t *testing.T) {
	nsqd.eachReal(t, func(t *testing.T, r *realCluster) {
		l := newNSQLoad()
		r.upgrade(l)
		for i := range realNodes {
			nsqServes(t, r.public(i, 1), nsqd.releases[1])
		}
		l.consume(r, nsqChannels[1])
		r.until(r.Agents[0], "every message to arrive", func(control.Status) bool { return len(l.missing()) == 0 })
		t.Logf("all of %d messages arrived, %d more than once; %d connections ended and were made anew, %d of them before they were of use",
			len(l.sent), l.again, l.broken, l.early)
		r.well()
	})
}

func (l *nsqLoad) start(r *realCluster) {
	for i := range realNodes {
		nsqServes(r.t, r.public(i, 1), nsqd.releases[0])
		for _, channel := range nsqChannels {
			nsqChannel(r.t, r.public(i, 1), channel)
		}
		for j := range 2 {
			l.produce(fmt.Sprintf("n%d-%d", i+1, j), r.public(i, 0))
		}
	}
	l.consume(r, nsqChannels[0])
}

// nsqChannel makes a channel of the topic.
func nsqChannel(t *testing.T, addr, channel string) {
	t.Helper()
	for _, call := range []string{"/topic/create?topic=" + nsqTopic, "/channel/create?topic=" + nsqTopic + "&channel=" + channel} {
		if _, err := answer(http.Post("http://"+addr+call, "", nil)); err != nil {
			t.Fatal(err)
		}
	}
}

// nsqServes checks which release answers at an address.
func nsqServes(t *testing.T, addr, release string) {
	t.Helper()
	data, err := answer(http.Get("http://" + addr + "/info"))
	var info struct {
		Version string `json:"version"`
	}
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil || "v"+info.Version != release {
		t.Errorf("%s serves release %q, %v; want %s", addr, info.Version, err, release)
	}
}

const (
	nsqTopic = "proof"
	nsqPace  = 20 * time.Millisecond // of one producer
	// nsqMost is how many connections a producer may lose, which talks to one node that
	// is upgraded once: the one that it has, and one that it makes while the old software
	// still takes any.
	nsqMost = 2
)

// nsqLoad is producers, consumers, and what they found.
type nsqLoad struct {
	*realLoad

	sent   map[string]string            // mu; bodies that were acknowledged, by id
	got    map[string]map[string]string // mu; bodies that arrived, by channel and id
	broken int                          // mu; connections that ended
	early  int                          // mu; of them, without an acknowledgement before
	again  int                          // mu; messages that arrived once more
}

func newNSQLoad() *nsqLoad {
	l := &nsqLoad{realLoad: newRealLoad(), sent: map[string]string{}, got: map[string]map[string]string{}}
	for _, channel := range nsqChannels {
		l.got[channel] = map[string]string{}
	}
	return l
}

// produce starts a producer, which sends each message until it is acknowledged.
func (l *nsqLoad) produce(name, addr string) {
	l.goesOn(addr)
	l.wg.Go(func() {
		var p *nsq.Producer
		defer func() {
			if p != nil {
				p.Stop()
			}
		}()
		lost, used := 0, false // connections lost; this one has been of use
		l.each(nsqPace, func(i int) bool {
			id := fmt.Sprintf("%s-%d", name, i)
			body := id + "\x00é✓\r\n" + strings.Repeat(id, i*37%64)
			for began := time.Now(); ; {
				if p == nil {
					p, used = nsqProducer(addr), false
				}
				err := p.Publish(nsqTopic, []byte(body))
				if err == nil {
					used = true
					l.acked(id, body)
					l.did(addr, time.Since(began))
					return true
				}
				p.Stop()
				p = nil
				lost++
				if !l.lost(name, err, lost, used) {
					return false
				}
			}
		})
	})
}

// nsqProducer is one connection of go-nsq, with its own defaults.
func nsqProducer(addr string) *nsq.Producer {
	p, err := nsq.NewProducer(addr, nsq.NewConfig())
	if err != nil {
		panic(err) // go-nsq does not take its own defaults
	}
	p.SetLogger(nil, nsq.LogLevelMax)
	return p
}

func (l *nsqLoad) acked(id, body string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[id] = body
}

// lost notes a connection that gave no acknowledgement, the producer's n-th, and reports
// whether the producer may make another.
func (l *nsqLoad) lost(name string, err error, n int, used bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken++
	if !used {
		l.early++
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		l.failed = append(l.failed, fmt.Sprintf("%s: a connection was refused: %v", name, err))
		return false
	}
	if protocol, ok := errors.AsType[nsq.ErrProtocol](err); ok {
		l.failed = append(l.failed, fmt.Sprintf("%s: a message was refused: %v", name, protocol))
		return false
	}
	if n > nsqMost {
		l.failed = append(l.failed, fmt.Sprintf("%s: %d connections ended, of which an upgrade explains %d; the last: %v", name, n, nsqMost, err))
		return false
	}
	return true
}

// consume starts a consumer of all nodes.
func (l *nsqLoad) consume(r *realCluster, channel string) {
	r.t.Helper()
	cfg := nsq.NewConfig()
	cfg.LookupdPollInterval = 100 * time.Millisecond // after which it connects anew: a minute by default
	cfg.MaxInFlight = 10 * realNodes
	c, err := nsq.NewConsumer(nsqTopic, channel, cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	c.SetLogger(nil, nsq.LogLevelMax)
	c.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error {
		l.arrived(channel, string(m.Body))
		return nil
	}))
	r.t.Cleanup(c.Stop)
	for i := range realNodes {
		if err := c.ConnectToNSQD(r.public(i, 0)); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (l *nsqLoad) arrived(channel, body string) {
	id, _, _ := strings.Cut(body, "\x00")
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, ok := l.got[channel][id]; ok {
		l.again++
		if before != body {
			l.failed = append(l.failed, fmt.Sprintf("message %s arrived in %s as %q and as %q", id, channel, before, body))
		}
	}
	l.got[channel][id] = body
}

// missing returns what has not arrived of what was acknowledged.
func (l *nsqLoad) missing() (problems []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for channel, got := range l.got {
		for id := range l.sent {
			if _, ok := got[id]; !ok {
				problems = append(problems, fmt.Sprintf("message %s was acknowledged and has not arrived in %s", id, channel))
			}
		}
	}
	return problems
}

// wrong returns what must not have been, or the first of it.
func (l *nsqLoad) wrong() (problems []string) {
	problems = l.missing()
	failed := l.realLoad.wrong()
	l.mu.Lock()
	defer l.mu.Unlock()
	for channel, got := range l.got {
		for id, sent := range l.sent {
			if body, ok := got[id]; ok && body != sent {
				problems = append(problems, fmt.Sprintf("message %s was acknowledged for %q and arrived in %s as %q", id, sent, channel, body))
			}
		}
	}
	slices.Sort(problems)
	return append(failed, problems[:min(len(problems), 10)]...)
}

// TestRealNSQDCatches shows that what TestRealNSQD rests on can fail.
func TestRealNSQDCatches(t *testing.T) {
	both := func(l *nsqLoad, bodies ...string) {
		for _, body := range bodies {
			for _, channel := range nsqChannels {
				l.arrived(channel, body)
			}
		}
	}
	for _, c := range []struct {
		name string
		do   func(l *nsqLoad)
		want string // in the one problem; none where it is empty
	}{
		{"all is well", func(l *nsqLoad) { both(l, "a\x001", "b\x002", "b\x002", "c\x00not acknowledged") }, ""},
		{"lost", func(l *nsqLoad) { both(l, "a\x001"); l.arrived("now", "b\x002") }, "message b was acknowledged and has not arrived in later"},
		{"altered", func(l *nsqLoad) { both(l, "a\x001"); l.arrived("now", "b\x002"); l.arrived("later", "b\x003") }, "arrived in later as"},
		{"altered once", func(l *nsqLoad) { l.arrived("now", "b\x00"); both(l, "a\x001", "b\x002") }, "and as"},
		{"refused", func(l *nsqLoad) {
			both(l, "a\x001", "b\x002")
			listener := nsqListener(t)
			listener.Close()
			l.produce("p", listener.Addr().String())
			l.wg.Wait()
		}, "a connection was refused"},
		{"let in and thrown out", func(l *nsqLoad) {
			both(l, "a\x001", "b\x002")
			listener := nsqListener(t)
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					conn.Close()
				}
			}()
			l.produce("p", listener.Addr().String())
			l.wg.Wait()
		}, "connections ended, of which an upgrade explains"},
		{"message refused", func(l *nsqLoad) {
			both(l, "a\x001", "b\x002")
			l.lost("p", nsq.ErrProtocol{Reason: "E_PUB_FAILED"}, 1, true)
		}, "E_PUB_FAILED"},
	} {
		l := newNSQLoad()
		l.acked("a", "a\x001")
		l.acked("b", "b\x002")
		c.do(l)
		got := l.wrong()
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s: found %q, want %q", c.name, got, c.want)
		}
	}
}

func nsqListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

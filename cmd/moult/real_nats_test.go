//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsServer has a state that it shares with its peers, which it calls all the time. Until
// the cluster is formed none of them is current, so what installs them asks only whether
// each is up; what upgrades them waits until the server has caught up with the others. It
// may find that it has not only after it said so, which three checks in a row, a second
// apart, let pass.
var natsServer = realProgram{
	name: "nats-server", module: "github.com/nats-io/nats-server/v2",
	releases: [2]string{"v2.11.9", "v2.12.2"},
	nodes:    3,
	files:    map[string]string{"nats.conf": natsConf},
	services: []realService{natsClient: {"client", "tcp"}, natsRoute: {"route", "tcp"}, natsMonitor: {"monitor", "http"}},
	env:      natsEnv,
	command:  `"-c", "nats.conf"`,
	health:   "http = \"/healthz?js-enabled-only=true\"\n      service = \"monitor\"",
	upgraded: "http = \"/healthz\"\n      service = \"monitor\"",
}

// Its services, in their order.
const (
	natsClient = iota
	natsRoute
	natsMonitor
)

// natsConf is the configuration of every node, as it would be without moult but
// for the addresses, which the environment has.
const natsConf = `server_name: $NATS_NAME
listen: $NATS_CLIENT
http: $NATS_MONITOR
client_advertise: $NATS_PUBLIC_CLIENT
jetstream { store_dir: $NATS_STATE, max_memory_store: 64MB, max_file_store: 4GB }
cluster {
  name: moult
  listen: $NATS_ROUTE
  advertise: $NATS_PUBLIC_ROUTE
  routes: [ $NATS_ROUTE_1, $NATS_ROUTE_2 ]
}
`

func natsEnv(r *realCluster, node int) map[string]string {
	peer := func(i int) string { return "nats://" + r.public((node+i)%r.program.nodes, natsRoute) }
	return map[string]string{
		"NATS_NAME": r.Agents[node].Name, "NATS_STATE": "${state}",
		"NATS_CLIENT": "${service.client}", "NATS_ROUTE": "${service.route}", "NATS_MONITOR": "${service.monitor}",
		"NATS_PUBLIC_CLIENT": r.public(node, natsClient), "NATS_PUBLIC_ROUTE": r.public(node, natsRoute),
		"NATS_ROUTE_1": peer(1), "NATS_ROUTE_2": peer(2),
	}
}

// TestRealNATS upgrades a JetStream cluster of three nats-servers while a real client
// publishes: every message that was acknowledged is there afterwards, just as it was sent,
// and just once.
func TestRealNATS(t *testing.T) {
	natsServer.eachReal(t, func(t *testing.T, r *realCluster) {
		p := &publisher{realLoad: newRealLoad(), delivered: map[string]bool{}}
		r.upgrade(p)
		p.serves(t, natsServer.releases[1])
		p.arrived(t)
		stored := p.read(t)
		for _, problem := range p.differ(stored) {
			t.Error(problem)
		}
		t.Logf("%d messages acknowledged, %d stored, %d delivered to a consumer meanwhile; %d tries were not acknowledged and made again", len(p.acked), len(stored), len(p.delivered), p.retries)
		r.well()
	})
}

// message is one that is stored or was acknowledged.
type message struct {
	seq  uint64
	id   string
	body string
}

// publisher publishes messages until each is acknowledged.
type publisher struct {
	*realLoad
	conn     *nats.Conn
	js       jetstream.JetStream
	stream   jetstream.Stream
	consumer jetstream.ConsumeContext

	acked     []message       // mu
	delivered map[string]bool // mu; by id
	retries   int             // mu
}

const (
	natsStream = "PROOF"
	natsTry    = 2 * time.Second // for one try to publish
	natsAgain  = 50 * time.Millisecond
	natsPace   = 5 * time.Millisecond // of one publisher
)

func (p *publisher) start(r *realCluster) {
	p.connect(r)
	p.serves(r.t, natsServer.releases[0])
	for i := range 4 {
		name := fmt.Sprintf("messages of %d", i)
		p.goesOn(name)
		p.wg.Go(func() {
			p.each(natsPace, func(j int) bool { return p.publish(name, fmt.Sprintf("%d-%d", i, j)) })
		})
	}
}

// connect connects as a client of the cluster and makes a stream on all three nodes, and a
// consumer of it.
func (p *publisher) connect(r *realCluster) {
	t := r.t
	t.Helper()
	var urls []string
	for node := range r.program.nodes {
		urls = append(urls, "nats://"+r.public(node, natsClient))
	}
	var err error
	p.conn, err = nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(natsAgain), nats.Timeout(natsTry))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.conn.Close)
	if p.js, err = jetstream.New(p.conn); err != nil {
		t.Fatal(err)
	}
	// The cluster's servers have to find each other first.
	p.patiently(t, "make a stream", func(ctx context.Context) (err error) {
		p.stream, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: natsStream, Subjects: []string{"proof.>"}, Storage: jetstream.FileStorage, Replicas: 3, Duplicates: time.Hour,
		})
		return err
	})
	var consumer jetstream.Consumer
	p.patiently(t, "make a consumer", func(ctx context.Context) (err error) {
		consumer, err = p.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 5 * time.Second})
		return err
	})
	p.consumer, err = consumer.Consume(func(m jetstream.Msg) {
		p.mu.Lock()
		p.delivered[m.Headers().Get(nats.MsgIdHdr)] = true
		p.mu.Unlock()
		_ = m.Ack() // one that is lost brings the message again
	}, jetstream.PullExpiry(natsTry), jetstream.ConsumeErrHandler(func(jetstream.ConsumeContext, error) {}))
	if err != nil {
		t.Fatal(err)
	}
}

// patiently does what may fail while the cluster is not whole.
func (p *publisher) patiently(t *testing.T, what string, do func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(natsAgain)
	defer tick.Stop()
	for {
		one, end := context.WithTimeout(ctx, natsTry)
		err := do(one)
		end()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// serves checks which release the server of this connection is of.
func (p *publisher) serves(t *testing.T, release string) {
	t.Helper()
	if got := "v" + p.conn.ConnectedServerVersion(); got != release {
		t.Errorf("the client is connected to a server of release %s, want %s", got, release)
	}
}

// publish sends one message until it is acknowledged. The server knows by its ID
// that one which was sent again is the same.
func (p *publisher) publish(name, id string) bool {
	body := fmt.Sprintf("%s\x00é✓\r\n%s", id, strings.Repeat(id, rand.IntN(100)))
	m := &nats.Msg{Subject: "proof." + id, Data: []byte(body), Header: nats.Header{}}
	began := time.Now()
	for tries := 0; ; tries++ {
		ctx, cancel := context.WithTimeout(context.Background(), natsTry)
		ack, err := p.js.PublishMsg(ctx, m, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			p.did(name, time.Since(began))
			p.mu.Lock()
			defer p.mu.Unlock()
			p.acked = append(p.acked, message{ack.Sequence, id, body})
			p.retries += tries
			return true
		}
		if errors.Is(err, nats.ErrConnectionClosed) {
			return false
		}
		select {
		case <-time.After(natsAgain): // the client's back-off
		case <-p.ctx.Done():
			return false
		}
	}
}

// arrived waits until the consumer has seen all that was acknowledged.
func (p *publisher) arrived(t *testing.T) {
	t.Helper()
	p.patiently(t, "wait for the consumer", func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, m := range p.acked {
			if !p.delivered[m.id] {
				return fmt.Errorf("message %s was not delivered", m.id)
			}
		}
		return nil
	})
	p.consumer.Stop()
}

// read reads the whole stream.
func (p *publisher) read(t *testing.T) (stored []message) {
	t.Helper()
	p.patiently(t, "read the stream", func(ctx context.Context) error {
		stored = nil
		info, err := p.stream.Info(ctx)
		if err != nil {
			return err
		}
		consumer, err := p.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return err
		}
		for uint64(len(stored)) < info.State.Msgs {
			batch, err := consumer.Fetch(1000, jetstream.FetchMaxWait(natsTry))
			if err != nil {
				return err
			}
			before := len(stored)
			for m := range batch.Messages() {
				meta, err := m.Metadata()
				if err != nil {
					return err
				}
				stored = append(stored, message{meta.Sequence.Stream, m.Headers().Get(nats.MsgIdHdr), string(m.Data())})
			}
			if err := batch.Error(); err != nil || len(stored) == before {
				return fmt.Errorf("%d of %d messages read: %w", len(stored), info.State.Msgs, err)
			}
		}
		return nil
	})
	return stored
}

// differ compares what was acknowledged with what is stored.
func (p *publisher) differ(stored []message) (problems []string) {
	at, ids := map[uint64]message{}, map[string]int{}
	for _, m := range stored {
		at[m.seq] = m
		if ids[m.id]++; ids[m.id] == 2 {
			problems = append(problems, fmt.Sprintf("message %s is stored more than once", m.id))
		}
	}
	for _, m := range p.acked {
		switch got, ok := at[m.seq]; {
		case !ok:
			problems = append(problems, fmt.Sprintf("message %s was acknowledged as number %d and is not there", m.id, m.seq))
		case got != m:
			problems = append(problems, fmt.Sprintf("number %d was acknowledged for %q and is %q", m.seq, m.body, got.body))
		}
	}
	return problems
}

// TestRealNATSCatches shows that what TestRealNATS rests on can fail.
func TestRealNATSCatches(t *testing.T) {
	p := &publisher{acked: []message{{1, "a", "A"}, {2, "b", "B"}}}
	for name, c := range map[string]struct {
		stored []message
		want   int
	}{
		"all is well": {[]message{{1, "a", "A"}, {2, "b", "B"}, {3, "c", "not acknowledged"}}, 0},
		"lost":        {[]message{{1, "a", "A"}}, 1},
		"altered":     {[]message{{1, "a", "A"}, {2, "b", "B!"}}, 1},
		"swapped":     {[]message{{2, "a", "A"}, {1, "b", "B"}}, 2},
		"twice":       {[]message{{1, "a", "A"}, {2, "b", "B"}, {3, "b", "B"}}, 1},
	} {
		if got := p.differ(c.stored); len(got) != c.want {
			t.Errorf("%s: %q, want %d problems", name, got, c.want)
		}
	}
}

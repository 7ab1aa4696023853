package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
)

// withNATS lets TestNATS fetch and build nats-server: `make nats`.
var withNATS = flag.Bool("nats", false, "upgrade real releases of nats-server, which are fetched from the Go module proxy and built")

// natsReleases are what releases 1 and 2 of the cluster run.
var natsReleases = [...]string{"v2.11.9", "v2.12.2"}

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

// natsSpec is a release. Until the cluster is formed no server is current, so
// what installs them asks only whether each is up; what upgrades them waits until
// the server has caught up with the others. It may find that it has not only
// after it said so, which three checks in a row, a second apart, let pass.
const natsSpec = `release {
  version = %d
  class "nats" {
    %s
    artifact {
      os   = %q
      arch = %q
      path = %q
    }
    command = [
      "env", "NATS_CLIENT=${service.client}", "NATS_ROUTE=${service.route}", "NATS_MONITOR=${service.monitor}", "NATS_STATE=${state}",
      "./nats-server", "-c", "nats.conf",
    ]
    service "client" { protocol = "tcp" }
    service "route" { protocol = "tcp" }
    service "monitor" { protocol = "http" }
    health {
      http             = %q
      service          = "monitor"
      interval         = "1s"
      min_healthy_time = "3s"
      healthy_deadline = "1m"
      drain_timeout    = "1s"
    }
    %s
    schedule {
      max_unavailable = "1"
    }
  }
}
`

// Ports of one node, from its first: three public addresses, each followed by
// the addresses of two versions.
const (
	natsClient  = 0
	natsRoute   = 3
	natsMonitor = 6
	natsPorts   = 9
)

// TestNATS upgrades a JetStream cluster of three nats-servers from one real
// release to the next while a real client publishes: every message that was
// acknowledged is there afterwards, just as it was sent, and just once.
func TestNATS(t *testing.T) {
	if !*withNATS {
		t.Skip("fetches and builds nats-server; run `make nats`")
	}
	folders := buildNATS(t)
	kinds := []kind{portable}
	if *allKinds {
		kinds = append(kinds, kind{"steer", "proxy"}, kind{"auto", "auto"})
	}
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			upgradeNATS(t, k, folders)
		})
	}
}

// buildNATS returns a folder for each release, with the server and its
// configuration.
func buildNATS(t *testing.T) (folders []string) {
	t.Helper()
	for _, release := range natsReleases {
		dir := t.TempDir()
		cmd := exec.Command("go", "install", "github.com/nats-io/nats-server/v2@"+release)
		cmd.Dir = dir // outside this module
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go install nats-server@%s: %v\n%s", release, err, out)
		}
		if err := os.WriteFile(filepath.Join(dir, "nats.conf"), []byte(natsConf), 0o644); err != nil {
			t.Fatal(err)
		}
		folders = append(folders, dir)
	}
	return folders
}

// natsCluster configures three agents for nats-server and returns the public
// addresses of the clients' service.
func natsCluster(t *testing.T, k kind) (c *testCluster, urls []string) {
	t.Helper()
	const n = 3
	c = newCluster(t, n)
	ports, err := cluster.ReservePorts(n * natsPorts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ports.Release() }) // the process's end does so, too
	base := ports.First
	addr := func(i, offset int) string { return fmt.Sprintf("127.0.0.1:%d", base+i*natsPorts+offset) }
	c.edit(func(a *cluster.Agent, config string) string {
		i := slices.Index(c.Agents, a)
		var services strings.Builder
		for _, s := range []struct {
			name, protocol string
			offset         int
		}{{"client", "tcp", natsClient}, {"route", "tcp", natsRoute}, {"monitor", "http", natsMonitor}} {
			first := base + i*natsPorts + s.offset + 1
			fmt.Fprintf(&services, "  service %q {\n    address = %q\n    protocol = %q\n    versions = \"%d-%d\"\n  }\n", s.name, addr(i, s.offset), s.protocol, first, first+1)
		}
		env := map[string]string{
			"NATS_NAME": a.Name, "NATS_PUBLIC_CLIENT": addr(i, natsClient), "NATS_PUBLIC_ROUTE": addr(i, natsRoute),
			"NATS_ROUTE_1": "nats://" + addr((i+1)%n, natsRoute), "NATS_ROUTE_2": "nats://" + addr((i+2)%n, natsRoute),
			"GODEBUG": "multipathtcp=0", // for steer
		}
		fmt.Fprint(&services, "  env = {\n")
		for _, name := range slices.Sorted(maps.Keys(env)) {
			fmt.Fprintf(&services, "    %s = %q\n", name, env[name])
		}
		fmt.Fprint(&services, "  }\n}\n")
		head, _, _ := strings.Cut(config, "  service ")
		return strings.Replace(head, `class = "kv"`, `class = "nats"`, 1) + services.String()
	})
	c.use(k, "")
	for i := range n {
		urls = append(urls, "nats://"+addr(i, natsClient))
	}
	return c, urls
}

func upgradeNATS(t *testing.T, k kind, folders []string) {
	c, urls := natsCluster(t, k)
	c.up(c.Agents)
	c.formed(len(c.Agents))
	release := func(v bundle.Version, from, health, simulations string) {
		t.Helper()
		text := fmt.Sprintf(natsSpec, v, from, runtime.GOOS, runtime.GOARCH, folders[v-1], health, simulations)
		if err := c.inject(c.Agents[v-1], c.bundle(v, text)); err != nil {
			t.Fatal(err)
		}
		c.settledAt(c.Agents[0], v, len(c.Agents))
	}
	release(1, "", "/healthz?js-enabled-only=true", "")
	c.inUse(k)
	p := newPublisher(t, urls)
	p.serves(t, natsReleases[0])
	p.run(4)
	p.flow(t, 500)
	began := time.Now()
	release(2, "from = 1", "/healthz", "past { compatible = true }\n    future { compatible = true }")
	took := time.Since(began)
	during := p.count()
	p.flow(t, 500)
	p.end(t)
	p.serves(t, natsReleases[1])
	stored := p.read(t)
	for _, problem := range p.wrong(stored) {
		t.Error(problem)
	}
	t.Logf("%s: %s to %s in %.1f s on 3 nodes: %d messages acknowledged, %d of them until the upgrade's end; %d stored; %d tries were not acknowledged and made again; the longest wait for an acknowledgement was %v; %d delivered to a consumer meanwhile",
		k, natsReleases[0], natsReleases[1], took.Seconds(), p.count(), during, len(stored), p.retries, p.longest.Round(time.Millisecond), len(p.delivered))
	for _, a := range c.Agents {
		c.until(a, "all to be as it was", func(s control.Status) bool { return cluster.Settled(s, 2) == 3 && cluster.Reachable(s) == 3 })
	}
}

// message is one that is stored or was acknowledged.
type message struct {
	seq  uint64
	id   string
	body string
}

// publisher publishes messages until each is acknowledged.
type publisher struct {
	conn     *nats.Conn
	js       jetstream.JetStream
	stream   jetstream.Stream
	stop     context.CancelFunc
	wg       sync.WaitGroup
	consumer jetstream.ConsumeContext

	mu        sync.Mutex
	acked     []message       // mu
	delivered map[string]bool // mu; by id
	retries   int             // mu
	longest   time.Duration   // mu
}

const (
	natsStream = "PROOF"
	natsTry    = 2 * time.Second // for one try to publish
	natsAgain  = 50 * time.Millisecond
)

// newPublisher connects as a client of the cluster and makes a stream on all
// three nodes, and a consumer of it.
func newPublisher(t *testing.T, urls []string) *publisher {
	t.Helper()
	p := &publisher{delivered: map[string]bool{}}
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
	return p
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

// run starts n goroutines that publish.
func (p *publisher) run(n int) {
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	for i := range n {
		p.wg.Go(func() {
			pause := time.NewTicker(5 * time.Millisecond)
			defer pause.Stop()
			for j := 0; ctx.Err() == nil; j++ {
				p.publish(fmt.Sprintf("%d-%d", i, j))
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
		})
	}
}

// publish sends one message until it is acknowledged. The server knows by its ID
// that one which was sent again is the same.
func (p *publisher) publish(id string) {
	body := fmt.Sprintf("%s\x00é✓\r\n%s", id, strings.Repeat(id, rand.IntN(100)))
	m := &nats.Msg{Subject: "proof." + id, Data: []byte(body), Header: nats.Header{}}
	began := time.Now()
	for tries := 0; ; tries++ {
		ctx, cancel := context.WithTimeout(context.Background(), natsTry)
		ack, err := p.js.PublishMsg(ctx, m, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			p.mu.Lock()
			p.acked = append(p.acked, message{ack.Sequence, id, body})
			p.retries += tries
			p.longest = max(p.longest, time.Since(began))
			p.mu.Unlock()
			return
		}
		if errors.Is(err, nats.ErrConnectionClosed) {
			return
		}
		<-time.After(natsAgain) // the client's back-off
	}
}

func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

// flow waits until n more messages have been acknowledged.
func (p *publisher) flow(t *testing.T, n int) {
	t.Helper()
	goal := p.count() + n
	p.patiently(t, fmt.Sprintf("publish %d more messages", n), func(context.Context) error {
		if got := p.count(); got < goal {
			return fmt.Errorf("%d of %d", got, goal)
		}
		return nil
	})
}

// end ends publishing, and waits until the consumer has seen all.
func (p *publisher) end(t *testing.T) {
	t.Helper()
	p.stop()
	p.wg.Wait()
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

// wrong compares what was acknowledged with what is stored.
func (p *publisher) wrong(stored []message) (problems []string) {
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

// TestNATSCheckCatches shows that what TestNATS rests on can fail.
func TestNATSCheckCatches(t *testing.T) {
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
		if got := p.wrong(c.stored); len(got) != c.want {
			t.Errorf("%s: %q, want %d problems", name, got, c.want)
		}
	}
}

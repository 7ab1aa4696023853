// Package dial lets a program that moult runs call its peers without a proxy and
// without help of the kernel: it asks the agent beside it where a peer answers the
// version that the program is, and dials that. Calls to anything that is no peer's
// service are dialled as they are.
//
// The agent tells its software where to ask by the environment variable
// MOULT_SOCKET. Without it, as where the program runs without moult, everything is
// dialled as it is. For HTTP:
//
//	client := &http.Client{Transport: &http.Transport{DialContext: dial.New().DialContext}}
//
// Answers are kept for a moment, and asked for anew when dialling fails. While the
// agent is away the last answers serve on. An address of which nothing is known
// then waits for the agent, and fails if it does not come: a call to a peer that
// did not say its version might be taken for one of another version.
//
// This file is the whole package and needs nothing but the standard library: copy
// it into a program that does not have moult's module. It is licensed under
// Apache-2.0, as moult is.
package dial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultTTL is how long an answer is kept where Dialer.TTL is 0.
	DefaultTTL = time.Second
	// maxAnswers bounds the answers that are kept.
	maxAnswers = 4096
	// maxAnswer bounds what is read of one answer, in bytes.
	maxAnswer = 64 << 10
	// askTimeout bounds one question to the agent.
	askTimeout = 5 * time.Second
	// agentWait bounds the wait for an agent that is away, where nothing is known.
	agentWait = 10 * time.Second
	// The pauses between questions grow from the first to the second.
	minPause = 20 * time.Millisecond
	maxPause = 500 * time.Millisecond
)

// SocketVariable names the environment variable with the path of the agent's
// socket.
const SocketVariable = "MOULT_SOCKET"

// Dialer dials peers as the agent says. The zero Dialer dials everything as it is.
// It is safe for concurrent use; its fields must not change once it is used.
type Dialer struct {
	// Socket is the path of the agent's socket; "" for none.
	Socket string
	// TTL is how long an answer of the agent is kept; 0 is DefaultTTL.
	TTL time.Duration
	// Net makes the connections.
	Net net.Dialer

	mu      sync.Mutex
	answers map[string]answer // by the address asked about
}

// answer is what the agent said, and until when it need not be asked again.
type answer struct {
	addr  string
	until time.Time
}

// New returns a Dialer that asks the agent that runs this program.
func New() *Dialer { return &Dialer{Socket: os.Getenv(SocketVariable)} }

// Context dials once: New().DialContext. A program that calls often keeps a
// Dialer, which remembers.
func Context(ctx context.Context, network, address string) (net.Conn, error) {
	return New().DialContext(ctx, network, address)
}

// DialContext connects to the address: where it is a peer's service, to the place
// at which that peer answers this program's version. It fits
// http.Transport.DialContext. Networks other than those of TCP and UDP are dialled
// as they are.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Socket == "" || !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return d.Net.DialContext(ctx, network, address)
	}
	to, kept, err := d.find(ctx, address)
	if err != nil {
		return nil, err
	}
	conn, err := d.Net.DialContext(ctx, network, to)
	if err == nil || !kept || ctx.Err() != nil {
		return conn, err
	}
	// What was kept may be out of date.
	now, askErr := d.ask(ctx, address)
	if askErr != nil || now == to {
		return nil, err
	}
	return d.Net.DialContext(ctx, network, now)
}

// find returns where to dial, from memory if it can.
func (d *Dialer) find(ctx context.Context, address string) (to string, kept bool, err error) {
	d.mu.Lock()
	a, known := d.answers[address]
	d.mu.Unlock()
	if known && time.Now().Before(a.until) {
		return a.addr, true, nil
	}
	deadline := time.Now().Add(agentWait)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		to, err := d.ask(ctx, address)
		var said *agentError
		switch {
		case err == nil:
			return to, false, nil
		case errors.As(err, &said):
			return "", false, fmt.Errorf("dial %s: %w", address, err)
		case known:
			return a.addr, true, nil // the agent is away
		case ctx.Err() != nil || time.Now().Add(pause).After(deadline):
			return "", false, fmt.Errorf("dial %s: whether it is a peer's address is not known, for the agent does not answer at %s (%s): %w", address, d.Socket, SocketVariable, err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// agentError is what the agent said is wrong.
type agentError struct{ message string }

func (e *agentError) Error() string { return e.message }

// ask asks the agent, and remembers what it says.
func (d *Dialer) ask(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var n net.Dialer
			return n.DialContext(ctx, "unix", d.Socket)
		},
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxAnswer,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/resolve?address="+url.QueryEscape(address), nil)
	if err != nil {
		return "", err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return "", fmt.Errorf("read the agent's answer: %w", err)
	}
	var said struct {
		Address string `json:"address"`
		Error   string `json:"error"`
	}
	if len(data) > maxAnswer {
		return "", &agentError{fmt.Sprintf("the agent's answer has more than %d bytes", maxAnswer)}
	}
	if err := json.Unmarshal(data, &said); err != nil {
		return "", &agentError{fmt.Sprintf("the agent's answer (%s) is not understood: %v", resp.Status, err)}
	}
	if resp.StatusCode != http.StatusOK || said.Address == "" {
		return "", &agentError{fmt.Sprintf("the agent says (%s): %s", resp.Status, said.Error)}
	}
	d.keep(address, said.Address)
	return said.Address, nil
}

// keep remembers an answer.
func (d *Dialer) keep(address, to string) {
	ttl := d.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.answers == nil {
		d.answers = map[string]answer{}
	}
	if _, known := d.answers[address]; !known && len(d.answers) >= maxAnswers {
		for old := range d.answers { // any one
			delete(d.answers, old)
			break
		}
	}
	d.answers[address] = answer{addr: to, until: time.Now().Add(ttl)}
}

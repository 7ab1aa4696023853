package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"moult/simlayer/dial"
)

// RepairHeader marks a call that one node makes to another because it misses
// a key: whoever gets it answers from what it has and asks nobody.
const RepairHeader = "Kv-Repair"

// repairTimeout is how long one node may take to answer another.
const repairTimeout = 5 * time.Second

// What Ask returns where no peer had what it asked for.
var (
	// ErrNowhere means that every peer has said so.
	ErrNowhere = errors.New("not found")
	// ErrUnanswered means that a peer has not answered: it may have it.
	ErrUnanswered = errors.New("not found here, and a peer did not answer; try again")
)

// Peers are the other nodes. They are safe for concurrent use.
type Peers struct {
	addrs  []string
	client *http.Client
	log    *slog.Logger
}

// NewPeers makes no call.
func NewPeers(c Config, log *slog.Logger) *Peers {
	t := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	switch {
	case c.Resolve:
		t.DialContext = dial.New().DialContext
	case c.Proxy != nil:
		t.Proxy = http.ProxyURL(c.Proxy)
	}
	return &Peers{addrs: c.Peers, client: &http.Client{Transport: t}, log: log}
}

// Ask sends GET path to all peers at once and returns the first value that
// decode finds in an answer. Without one it returns ErrNowhere or
// ErrUnanswered.
//
// A peer that answers with a refusal of its own (such as 400 or 501) has
// nothing for this node and counts as having said so.
func Ask[T any](ctx context.Context, p *Peers, path string, decode func(body []byte) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, len(p.addrs))
	for _, addr := range p.addrs {
		go func() {
			var a answer
			body, err := p.get(ctx, "http://"+addr+path)
			if err == nil {
				a.value, err = decode(body)
			}
			if err != nil {
				a.err = fmt.Errorf("ask peer %s: %w", addr, err)
			}
			answers <- a
		}()
	}
	var zero T
	end := ErrNowhere
	for range p.addrs {
		a := <-answers
		if a.err == nil {
			return a.value, nil
		}
		if !errors.Is(a.err, ErrNowhere) {
			end = ErrUnanswered
			p.log.Warn("read repair", "error", a.err)
		}
	}
	return zero, end
}

// get returns the body of an answer 200. ErrNowhere means that the peer has
// nothing.
func (p *Peers) get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set(RepairHeader, "1")
	resp, err := p.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > MaxBody:
		return nil, fmt.Errorf("more than %d bytes", MaxBody)
	case resp.StatusCode == http.StatusOK:
		return body, nil
	case resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented:
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	default:
		return nil, ErrNowhere
	}
}

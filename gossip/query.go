package gossip

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/serf/serf"

	"moult/store/bundle"
)

// A Response is one member's answer to a query. It is only as trustworthy as
// the ring: signed things must be verified by who asked.
type Response struct {
	Name    string
	ID      bundle.NodeID // as the ring knows the name; zero if it does not
	Payload []byte
}

// Query asks every member, this agent included, and returns the answers as
// they come, until ctx ends or, without a deadline, for a time that suits the
// ring's size. The channel is then closed. Members that are slow, or have no
// Config.Query, do not answer; nothing follows from silence.
func (g *Gossip) Query(ctx context.Context, name string, payload []byte) (<-chan Response, error) {
	if len(name)+len(payload) > maxQueryPayload {
		return nil, fmt.Errorf("query %q: %d bytes: want at most %d", name, len(payload), maxQueryPayload-len(name))
	}
	params := g.serf.DefaultQueryParams()
	if deadline, ok := ctx.Deadline(); ok {
		params.Timeout = time.Until(deadline)
	}
	if !g.enter() {
		return nil, fmt.Errorf("query %q: %w", name, ErrClosed)
	}
	answers, err := g.serf.Query(name, payload, params)
	if err != nil {
		g.wg.Done()
		return nil, fmt.Errorf("query %q: %w", name, err)
	}
	ids := map[string]bundle.NodeID{}
	for _, m := range g.Members() {
		ids[m.Name] = m.ID
	}
	out := make(chan Response)
	go func() {
		defer g.wg.Done()
		defer close(out)
		defer answers.Close()
		for {
			select {
			case a, ok := <-answers.ResponseCh():
				if !ok {
					return
				}
				select {
				case out <- Response{a.From, ids[a.From], a.Payload}:
				case <-ctx.Done():
					return
				case <-g.ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			case <-g.ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// answerQueries runs Config.Query, one query at a time.
func (g *Gossip) answerQueries() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case q := <-g.mail.queries:
			if g.cfg.Query != nil && time.Now().Before(q.Deadline()) {
				g.answer(q)
			}
		}
	}
}

func (g *Gossip) answer(q *serf.Query) {
	a := g.cfg.Query(q.Name, q.Payload)
	if len(a) > maxQueryAnswer {
		g.cfg.Log.Warn("answer to a query is too long", "query", q.Name, "bytes", len(a), "limit", maxQueryAnswer)
		return
	}
	if a == nil {
		return
	}
	if err := q.Respond(a); err != nil {
		g.cfg.Log.Debug("query not answered", "query", q.Name, "err", err)
	}
}

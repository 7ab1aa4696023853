package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"moult/gossip/view"
	"moult/store/bundle"
)

// hello asks who answers at an address, and whether this agent's name is free
// there. It returns the peer with its proven identity.
func (g *Gossip) hello(ctx context.Context, p Peer) (Peer, error) {
	_, id, err := g.helloAlso(ctx, p, "")
	return Peer{ID: id, Addr: p.Addr}, err
}

func (g *Gossip) helloAlso(ctx context.Context, p Peer, also string) (reply helloReply, id bundle.NodeID, err error) {
	body := mustJSON(helloRequest{Name: g.cfg.Name, Addr: g.Addr(), Also: also})
	data, id, err := g.call(ctx, p, http.MethodPost, pathHello, body, maxHeaderBytes)
	if r, ok := errors.AsType[*refusal](err); ok && id == g.self && r.status == http.StatusConflict {
		g.mail.conflict(Conflict{Name: g.cfg.Name, Holder: g.self, HolderAddr: g.Addr(), Claimant: g.self, ClaimantAddr: p.Addr})
	}
	if err == nil {
		err = json.Unmarshal(data, &reply)
	}
	return reply, id, err
}

// twin returns the conflict of one identity living at two addresses, or nil. A node whose
// address has changed is no twin: nobody proves its key at the old one.
func (g *Gossip) twin(ctx context.Context, id bundle.NodeID, addr string) *Conflict {
	name, other := g.guard.elsewhere(id, addr)
	switch {
	case other == "":
		return nil
	case id == g.self: // which is here
	default:
		ctx, cancel := context.WithTimeout(ctx, twinTimeout)
		defer cancel()
		reply, _, err := g.helloAlso(ctx, Peer{ID: id, Addr: other}, addr)
		if err != nil && !refused(err) || reply.Addr == addr { // both addresses are of one agent
			return nil
		}
	}
	return &Conflict{Name: name, Holder: id, HolderAddr: other, Claimant: id, ClaimantAddr: addr}
}

// refused reports that a peer has answered, and does not want to.
func refused(err error) bool {
	_, ok := errors.AsType[*refusal](err)
	return ok
}

func (g *Gossip) serveHello(w http.ResponseWriter, r *http.Request) {
	var req helloRequest
	if !readJSON(w, r, maxHeaderBytes, &req) {
		return
	}
	id, _ := PeerID(r.Context())
	if err := checkName(req.Name); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c := g.guard.check(req.Name, id, req.Addr)
	if c == nil {
		c = g.guard.checkIdentity(req.Name, id, req.Addr)
	}
	if c == nil {
		c = g.twin(r.Context(), id, req.Addr)
	}
	if req.Also != "" && id != g.self {
		g.mail.conflict(Conflict{Name: g.cfg.Name, Holder: g.self, HolderAddr: g.Addr(), Claimant: g.self, ClaimantAddr: req.Also, Hearsay: true})
	}
	// A holder at the very address of the claimant is looked into by judge:
	// it may be an earlier identity of the same agent.
	if c != nil && c.HolderAddr != req.Addr {
		g.mail.conflict(*c)
		http.Error(w, c.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, helloReply{Name: g.cfg.Name, Addr: g.Addr()})
}

func (g *Gossip) serveDigest(w http.ResponseWriter, r *http.Request) {
	var req digestRequest
	if !readJSON(w, r, maxDigestBody, &req) {
		return
	}
	theirs, err := unpackBuckets(req.Buckets)
	if err != nil {
		http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
		return
	}
	buckets := view.DifferentBuckets(g.cfg.Replica.Buckets(), theirs)
	stamps, done := stampsOf(g.cfg.Replica, buckets, maxStampsPerReply)
	writeJSON(w, digestReply{Heads: g.heads(), Buckets: buckets[:done], Stamps: stamps, More: done < len(buckets)})
}

func (g *Gossip) serveRecords(w http.ResponseWriter, r *http.Request) {
	var req recordsRequest
	if !readJSON(w, r, maxRecordsBody, &req) {
		return
	}
	if len(req.Want) > maxRecordsPerPage || len(req.Push) > maxRecordsPerPage {
		http.Error(w, "request: more records than one page holds", http.StatusBadRequest)
		return
	}
	var reply recordsReply
	if len(req.Want) > 0 {
		reply.Records = g.cfg.Replica.Records(req.Want)
	}
	if len(req.Push) > 0 {
		id, _ := PeerID(r.Context())
		g.cfg.Replica.Merge(id, req.Push)
	}
	writeJSON(w, reply)
}

func (g *Gossip) serveTrustSet(w http.ResponseWriter, r *http.Request) {
	d, err := bundle.ParseDigest("sha256:" + r.PathValue("digest"))
	if err != nil {
		http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
		return
	}
	set, ok := g.cfg.Replica.TrustSet(d)
	if !ok {
		http.Error(w, "this agent does not hold trust set "+d.Short(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(set)
}

func (g *Gossip) takeTrustSet(w http.ResponseWriter, r *http.Request) {
	select {
	case g.trusting <- struct{}{}:
		defer func() { <-g.trusting }()
	case <-r.Context().Done():
		return
	}
	set, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTrustSet))
	if err != nil {
		status := http.StatusBadRequest
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "trust set: "+err.Error(), status)
		return
	}
	id, _ := PeerID(r.Context())
	if !g.cfg.Replica.OfferTrust(id, set) {
		http.Error(w, "trust set: this agent cannot store it now", http.StatusInsufficientStorage)
	}
}

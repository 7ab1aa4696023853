package kv1

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"moult/testdata/kv/internal/node"
)

// pair is a key with its value, as it goes over the wire.
type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// keyOnly acknowledges a set.
type keyOnly struct {
	Key string `json:"key"`
}

// keyList answers a list.
type keyList struct {
	Keys []string `json:"keys"`
}

// api answers the protocol of the package's documentation.
type api struct {
	store *Store
	peers *node.Peers
	log   *slog.Logger
}

// Open opens the state that c names and returns what answers the calls.
func Open(c node.Config, log *slog.Logger) (http.Handler, error) {
	store, err := OpenStore(c.State, c.NoSync)
	if err != nil {
		return nil, err
	}
	a := &api{store: store, peers: node.NewPeers(c, log), log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /get", a.get)
	mux.HandleFunc("PUT /set", a.set)
	mux.HandleFunc("GET /list", a.list)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		node.Answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	return mux, nil
}

func (a *api) get(w http.ResponseWriter, r *http.Request) {
	key := r.URL.Query().Get("k")
	if err := node.CheckKey(key); err != nil {
		node.Fail(w, http.StatusBadRequest, err)
		return
	}
	value, err := a.store.Get(key)
	if errors.Is(err, errMissing) && r.Header.Get(node.RepairHeader) == "" {
		value, err = a.repair(r.Context(), key)
	}
	switch {
	case err == nil:
		node.Answer(w, http.StatusOK, pair{Key: key, Value: value})
	case errors.Is(err, errMissing):
		node.Fail(w, http.StatusNotFound, err)
	case errors.Is(err, node.ErrUnanswered):
		w.Header().Set("Retry-After", "1")
		node.Fail(w, http.StatusServiceUnavailable, err)
	default:
		a.broken(w, r, err)
	}
}

// repair asks the peers for a key that this node misses and keeps what they
// have. It returns errMissing where none of them has it.
func (a *api) repair(ctx context.Context, key string) (string, error) {
	value, err := node.Ask(ctx, a.peers, "/get?k="+url.QueryEscape(key), func(body []byte) (string, error) {
		var p pair
		if err := node.DecodeJSON(body, &p); err != nil {
			return "", err
		}
		if p.Key != key || len(p.Value) > node.MaxValue {
			return "", fmt.Errorf("key %q with %d bytes, asked for %q", p.Key, len(p.Value), key)
		}
		return p.Value, nil
	})
	if errors.Is(err, node.ErrNowhere) {
		return "", errMissing
	}
	if err != nil {
		return "", err
	}
	return a.store.Adopt(key, value)
}

func (a *api) set(w http.ResponseWriter, r *http.Request) {
	p, err := readSet(w, r)
	if err != nil {
		node.Fail(w, http.StatusBadRequest, err)
		return
	}
	if err := a.store.Set(p.Key, p.Value); err != nil {
		a.broken(w, r, err)
		return
	}
	node.Answer(w, http.StatusOK, keyOnly{Key: p.Key})
}

// readSet returns the checked body of a set.
func readSet(w http.ResponseWriter, r *http.Request) (pair, error) {
	var body struct {
		Key   string  `json:"key"`
		Value *string `json:"value"`
	}
	if err := node.ReadJSON(w, r, &body); err != nil {
		return pair{}, err
	}
	if err := node.CheckKey(body.Key); err != nil {
		return pair{}, err
	}
	switch {
	case body.Value == nil:
		return pair{}, errors.New(`the body has no "value"`)
	case len(*body.Value) > node.MaxValue:
		return pair{}, fmt.Errorf("the value has %d bytes, at most %d", len(*body.Value), node.MaxValue)
	}
	return pair{Key: body.Key, Value: *body.Value}, nil
}

func (a *api) list(w http.ResponseWriter, r *http.Request) {
	keys, err := a.store.Keys()
	if err != nil {
		a.broken(w, r, err)
		return
	}
	node.Answer(w, http.StatusOK, keyList{Keys: keys})
}

// broken answers a call that failed through no fault of its caller.
func (a *api) broken(w http.ResponseWriter, r *http.Request, err error) {
	a.log.Error("call failed", "method", r.Method, "path", r.URL.Path, "error", err)
	node.Fail(w, http.StatusInternalServerError, err)
}

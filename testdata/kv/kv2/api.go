package kv2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"moult/testdata/kv/internal/node"
)

// root is the path before a key.
const root = "/v2/keys/"

// putBody is the body of a put.
type putBody struct {
	Value       *string `json:"value"`
	ContentType string  `json:"content_type"`
	IfRevision  *int64  `json:"if_revision"`
}

// written acknowledges a put or a delete.
type written struct {
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
}

// conflict answers a put whose condition did not hold.
type conflict struct {
	Error    string `json:"error"`
	Revision int64  `json:"revision"`
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
	mux.HandleFunc("GET "+root+"{key...}", a.get)
	mux.HandleFunc("PUT "+root+"{key...}", a.put)
	mux.HandleFunc("DELETE "+root+"{key...}", a.remove)
	mux.HandleFunc("GET /v2/keys", func(w http.ResponseWriter, _ *http.Request) {
		node.Answer(w, http.StatusOK, keyList{Keys: a.store.Keys()})
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		node.Answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	return mux, nil
}

// keyOf returns the checked key of a call. It reads the path by itself, because
// http.ServeMux takes the key "/", which comes as %2F, for the end of a folder.
func keyOf(r *http.Request) (string, error) {
	escaped := strings.TrimPrefix(r.URL.EscapedPath(), root)
	if strings.Contains(escaped, "/") {
		return "", fmt.Errorf("%w %q: a slash goes as %%2F", node.ErrKey, escaped)
	}
	key, err := url.PathUnescape(escaped)
	if err != nil {
		return "", fmt.Errorf("%w: %w", node.ErrKey, err)
	}
	return key, node.CheckKey(key)
}

func (a *api) get(w http.ResponseWriter, r *http.Request) {
	key, err := keyOf(r)
	if err != nil {
		node.Fail(w, http.StatusBadRequest, err)
		return
	}
	o, err := a.store.Get(key)
	if errors.Is(err, errMissing) && !errors.Is(err, errDeleted) && r.Header.Get(node.RepairHeader) == "" {
		o, err = a.repair(r.Context(), key)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	node.Answer(w, http.StatusOK, o)
}

// repair asks the peers for a key that this node misses and keeps what they
// have. It returns errMissing where none of them has it.
func (a *api) repair(ctx context.Context, key string) (Object, error) {
	found, err := node.Ask(ctx, a.peers, root+url.PathEscape(key), func(body []byte) (Object, error) {
		var o Object
		if err := node.DecodeJSON(body, &o); err != nil {
			return Object{}, err
		}
		if o.Key != key {
			return Object{}, fmt.Errorf("key %q, asked for %q", o.Key, key)
		}
		return o, o.check()
	})
	if errors.Is(err, node.ErrNowhere) {
		return Object{}, errMissing
	}
	if err != nil {
		return Object{}, err
	}
	return a.store.Adopt(found)
}

func (a *api) put(w http.ResponseWriter, r *http.Request) {
	key, body, err := readPut(w, r)
	if err != nil {
		node.Fail(w, http.StatusBadRequest, err)
		return
	}
	revision, err := a.store.Put(key, *body.Value, body.ContentType, body.IfRevision)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	node.Answer(w, http.StatusOK, written{Key: key, Revision: revision})
}

// readPut returns a checked body: Value is not nil, and ContentType in its
// normal form.
func readPut(w http.ResponseWriter, r *http.Request) (key string, b putBody, err error) {
	if key, err = keyOf(r); err != nil {
		return "", b, err
	}
	if err := node.ReadJSON(w, r, &b); err != nil {
		return "", b, err
	}
	if b.Value == nil {
		return "", b, errors.New(`the body has no "value"`)
	}
	if b.ContentType, err = normalType(b.ContentType); err != nil {
		return "", b, err
	}
	return key, b, checkValue(*b.Value, b.ContentType)
}

func (a *api) remove(w http.ResponseWriter, r *http.Request) {
	key, err := keyOf(r)
	if err != nil {
		node.Fail(w, http.StatusBadRequest, err)
		return
	}
	revision, err := a.store.Delete(key)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	node.Answer(w, http.StatusOK, written{Key: key, Revision: revision})
}

// fail answers a call that was not carried out.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	var c *conflictError
	switch {
	case errors.As(err, &c):
		node.Answer(w, http.StatusConflict, conflict{Error: err.Error(), Revision: c.Revision})
	case errors.Is(err, errMissing):
		node.Fail(w, http.StatusNotFound, err)
	case errors.Is(err, node.ErrUnanswered):
		w.Header().Set("Retry-After", "1")
		node.Fail(w, http.StatusServiceUnavailable, err)
	default:
		a.log.Error("call failed", "method", r.Method, "path", r.URL.Path, "error", err)
		node.Fail(w, http.StatusInternalServerError, err)
	}
}

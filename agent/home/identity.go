package home

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"

	"moult/agent/membership"
	"moult/gossip/view"
	"moult/store"
	"moult/store/bundle"
	"moult/store/durable"
)

// IdentityFile is the file of the data folder that has the node's key.
const IdentityFile = "identity.pem"

const gossipKeySize = 32

// loadIdentity reads the node's key from its data folder, and makes it where there is
// none. The key is the node: a copied data folder is the same node.
func loadIdentity(dir string) (key ed25519.PrivateKey, made bool, err error) {
	if key, err = ReadIdentity(dir); errors.Is(err, fs.ErrNotExist) {
		key, err = makeIdentity(filepath.Join(dir, IdentityFile))
		return key, true, err
	}
	return key, false, err
}

// ReadIdentity reads the node's key from its data folder.
func ReadIdentity(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, IdentityFile)
	data, err := durable.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	key, err := parseIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("read the node's identity %s: %w; restore it from a backup, or remove it to become a new node", path, err)
	}
	return key, nil
}

// nodeHeader has the node's ID in its identity file: a key in which the disk has flipped a
// bit is one as well, of another node. Files of older agents have none.
const nodeHeader = "Node"

// NodeOf is the node whose key it is.
func NodeOf(key ed25519.PrivateKey) bundle.NodeID {
	return bundle.NodeIDOf(key.Public().(ed25519.PublicKey))
}

func parseIdentity(data []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%T, want ed25519", key)
	}
	id := bundle.NodeIDOf(ed.Public().(ed25519.PublicKey)).String()
	if named := block.Headers[nodeHeader]; named != "" && named != id {
		return nil, fmt.Errorf("it is the key of node %.16s, and says that it is of node %.16s: it is damaged", id, named)
	}
	return ed, nil
}

func makeIdentity(path string) (ed25519.PrivateKey, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the node's identity: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the node's identity: %w", err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{nodeHeader: bundle.NodeIDOf(public).String()}, Bytes: der})
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return nil, fmt.Errorf("make the node's identity: %w", err)
	}
	return key, nil
}

// GossipKeys reads the ring's secret, and the second one of the file, where there is one. Without a file the secret is derived from the cluster's identity: that keeps
// clusters apart, but it is no secret.
func (h *Home) GossipKeys() (keys [][]byte, err error) {
	path := h.cfg.GossipKey
	if path == "" {
		sum := sha256.Sum256([]byte("moult gossip key of an open ring\n" + h.Cluster.String()))
		return [][]byte{sum[:]}, nil
	}
	data, err := durable.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the ring's secret: %w", err)
	}
	for _, line := range strings.Fields(string(data)) {
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != gossipKeySize {
			return nil, fmt.Errorf("read the ring's secret %s: want %d bytes in base64, as `moult trust init` writes them", path, gossipKeySize)
		}
		keys = append(keys, key)
	}
	if len(keys) < 1 || len(keys) > 2 {
		return nil, fmt.Errorf("read the ring's secret %s: %d keys, want one, or two while it is replaced", path, len(keys))
	}
	return keys, nil
}

// Enrol signs, by the join token in a file, that this node belongs to the cluster. What it
// signed once is kept, so that the token need not stay on the machine.
func (h *Home) Enrol() (e view.Enrolment, err error) {
	if data, ok, err := h.Store.Get(bucketTrust, keyEnrolment); err != nil {
		return e, err
	} else if ok {
		if err := json.Unmarshal(data, &e); err != nil {
			return e, fmt.Errorf("the store's enrolment of this node: %w", err)
		}
	}
	if h.cfg.JoinToken == "" {
		return e, nil
	}
	secret, err := readToken(h.cfg.JoinToken)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Its node has said it before, and its peers still know, or somebody enrols it by name.
		h.log.Info("the join token is not there, so this node shows no new enrolment", "file", h.cfg.JoinToken)
		return e, nil
	case err != nil && !e.IsZero():
		h.log.Warn("the join token cannot be read, so this node shows the enrolment that it has", "err", err)
		return e, nil
	case err != nil:
		return e, err
	}
	now := secret.Enrol(h.ID, h.cfg.Class) // the same signature each time
	if reflect.DeepEqual(now, e) {
		return e, nil
	}
	data, err := json.Marshal(now)
	if err == nil {
		err = h.Store.Update(func(tx *store.Tx) error { return tx.Put(bucketTrust, keyEnrolment, data) })
	}
	if err != nil {
		h.log.Warn("the enrolment of this node is not stored: keep the join token where it is", "err", err)
	}
	return now, nil
}

func readToken(path string) (secret membership.Secret, err error) {
	text, err := durable.ReadFile(path, maxKeyFile)
	if err != nil {
		return secret, fmt.Errorf("read the join token: %w", err)
	}
	if secret, err = membership.ParseSecret(string(text)); err != nil {
		return secret, fmt.Errorf("read the join token %s: %w", path, err)
	}
	return secret, nil
}

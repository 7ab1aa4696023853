package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"moult/store/bundle"
	"moult/store/durable"
)

const (
	identityFile  = "identity.pem"
	gossipKeySize = 32
)

// loadIdentity reads the node's key from its data folder, and makes it where there is
// none. The key is the node: a copied data folder is the same node.
func loadIdentity(dir string) (key ed25519.PrivateKey, made bool, err error) {
	path := filepath.Join(dir, identityFile)
	if key, err = readIdentity(path); errors.Is(err, fs.ErrNotExist) {
		key, err = makeIdentity(path)
		return key, true, err
	}
	return key, false, err
}

func readIdentity(path string) (ed25519.PrivateKey, error) {
	data, err := durable.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("read the node's identity %s: not PEM; restore it from a backup, or remove it to become a new node", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the node's identity %s: %w", path, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read the node's identity %s: %T, want ed25519", path, key)
	}
	return ed, nil
}

func makeIdentity(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the node's identity: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the node's identity: %w", err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return nil, fmt.Errorf("make the node's identity: %w", err)
	}
	return key, nil
}

// loadGossipKey reads the ring's secret. Without a file it is derived from the
// cluster's identity: that keeps clusters apart, but it is no secret.
func loadGossipKey(path string, cluster bundle.Digest) (key []byte, secret bool, err error) {
	if path == "" {
		sum := sha256.Sum256([]byte("moult gossip key of an open ring\n" + cluster.String()))
		return sum[:], false, nil
	}
	data, err := durable.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, false, fmt.Errorf("read the ring's secret: %w", err)
	}
	key, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(key) != gossipKeySize {
		return nil, false, fmt.Errorf("read the ring's secret %s: want %d bytes in base64, as `moult trust init` writes them", path, gossipKeySize)
	}
	return key, true, nil
}

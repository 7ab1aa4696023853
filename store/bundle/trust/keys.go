package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/durable"
)

// ErrNoKey is a key that an operation needs and this folder does not have, or
// one that the metadata in force does not know.
var ErrNoKey = errors.New("key needed")

// keyName names a key file of a trust folder. The publisher's key is TUF's
// targets key.
type keyName string

const (
	rootKey      keyName = "root"
	publisherKey keyName = "publisher"
	operatorKey  keyName = "operator"
)

// gossipKeyBytes is the length of the ring's secret: AES-256.
const gossipKeyBytes = 32

const pemType = "PRIVATE KEY" // PKCS#8

// signingKey is a private key and its name in TUF metadata.
type signingKey struct {
	id      string
	public  *metadata.Key
	signer  signature.Signer
	private ed25519.PrivateKey
}

func newSigningKey() (*signingKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return signingKeyOf(private)
}

func signingKeyOf(private ed25519.PrivateKey) (*signingKey, error) {
	signer, err := signature.LoadED25519Signer(private)
	if err != nil {
		return nil, err
	}
	public, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	id, err := public.ID()
	if err != nil {
		return nil, err
	}
	return &signingKey{id: id, public: public, signer: signer, private: private}, nil
}

// encode returns the key file's content.
func (k *signingKey) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// loadKey reads a key file, which only its owner may read.
func loadKey(path string) (*signingKey, error) {
	data, err := durable.ReadSecret(path, maxKeyFileBytes)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("%s: want one PEM block %q (PKCS#8)", path, pemType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T, want ed25519", path, key)
	}
	return signingKeyOf(private)
}

func newGossipKey() []byte {
	secret := make([]byte, gossipKeyBytes)
	rand.Read(secret) // never fails, and fills it whole
	return []byte(base64.StdEncoding.EncodeToString(secret) + "\n")
}

// GossipKey returns the ring's secret, 32 bytes. An agent is given a copy of
// the file.
func (f *Folder) GossipKey() ([]byte, error) {
	path := filepath.Join(f.dir, gossipKeyFile)
	data, err := durable.ReadSecret(path, maxKeyFileBytes)
	if err != nil {
		return nil, fmt.Errorf("read the ring's secret: %w", err)
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(secret) != gossipKeyBytes {
		return nil, fmt.Errorf("read the ring's secret: %s: want %d bytes in base64", path, gossipKeyBytes)
	}
	return secret, nil
}

func (f *Folder) keyPath(name keyName) string {
	return filepath.Join(f.dir, keysDir, string(name)+".pem")
}

// key loads a key that must be one of allowed. purpose completes "to …".
func (f *Folder) key(name keyName, purpose string, allowed signers) (*signingKey, error) {
	path := f.keyPath(name)
	k, err := loadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the %s key, to %s; %s does not exist: run this where that key is kept, or bring it here",
			ErrNoKey, name, purpose, path)
	}
	if err != nil {
		return nil, fmt.Errorf("load the %s key, to %s: %w", name, purpose, err)
	}
	if _, ok := allowed[k.id]; !ok {
		return nil, fmt.Errorf("%w: the %s key, to %s; %s has key %.12s, which the metadata in force does not allow: was it rotated elsewhere?",
			ErrNoKey, name, purpose, path, k.id)
	}
	return k, nil
}

// onlineKey loads the publisher's or the operator's key, whichever is here,
// to sign snapshot and timestamp.
func (f *Folder) onlineKey(purpose string, root *metadata.Metadata[metadata.RootType]) (*signingKey, error) {
	allowed := rootSigners(root, metadata.TIMESTAMP)
	k, err := f.key(publisherKey, purpose, allowed)
	if !errors.Is(err, ErrNoKey) {
		return k, err
	}
	k, operatorErr := f.key(operatorKey, purpose, allowed)
	if errors.Is(operatorErr, ErrNoKey) {
		return nil, errors.Join(err, operatorErr)
	}
	return k, operatorErr
}

package gossip

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"time"

	"moult/store/bundle"
)

// ErrForeign says that a peer is a moult agent of another cluster, or one
// with another gossip key.
var ErrForeign = errors.New("it belongs to another cluster or has another gossip key")

// An IdentityError says that another node than the wanted one answered.
type IdentityError struct {
	Addr      string
	Want, Got bundle.NodeID
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("peer at %s has node ID %s, not %s: the address was taken over by another node", e.Addr, e.Got.Short(), e.Want.Short())
}

const (
	gossipKeySize = 32
	proofSize     = sha256.Size

	// alpnRing marks memberlist's streams, alpnPeer HTTP between peers.
	alpnRing = "moult-ring/1"
	alpnPeer = "moult-peer/1"

	exporterLabel = "EXPORTER-moult-admission-v1"
	roleDialer    = "dialer"
	roleListener  = "listener"
)

// A gate decides which streams are let in: TLS 1.3 proves which key the peer
// holds, and then each side proves to the other that it holds the cluster's
// gossip key. The proofs are bound to the TLS session, so they cannot be
// relayed or replayed; and a peer without the key learns nothing but refusal.
type gate struct {
	cert      tls.Certificate
	proofKeys [][]byte // this side dials by the first; whoever has any is let in
	cluster   bundle.Digest
}

// keysOf derives those of both gossip keys, the one in use first.
func keysOf(cfg Config) (packets, proofs [][]byte, err error) {
	for _, k := range [][]byte{cfg.GossipKey, cfg.OtherGossipKey} {
		if len(k) == 0 {
			continue
		}
		packet, proof, err := ringKeys(k, cfg.Cluster)
		if err != nil {
			return nil, nil, err
		}
		packets, proofs = append(packets, packet), append(proofs, proof)
	}
	return packets, proofs, nil
}

// ringKeys derives one key for each use from a gossip key, bound to the
// cluster: for packets (memberlist's keyring) and for admission proofs.
func ringKeys(gossipKey []byte, cluster bundle.Digest) (packets, proofs []byte, err error) {
	packets, err = hkdf.Key(sha256.New, gossipKey, cluster[:], "moult packets v1", 32)
	if err != nil {
		return nil, nil, fmt.Errorf("deriving the packet key: %w", err)
	}
	proofs, err = hkdf.Key(sha256.New, gossipKey, cluster[:], "moult admission v1", 32)
	if err != nil {
		return nil, nil, fmt.Errorf("deriving the admission key: %w", err)
	}
	return packets, proofs, nil
}

func newGate(key ed25519.PrivateKey, cluster bundle.Digest, proofKeys [][]byte) (*gate, error) {
	cert, err := nodeCertificate(key)
	if err != nil {
		return nil, err
	}
	return &gate{cert: cert, proofKeys: proofKeys, cluster: cluster}, nil
}

// nodeCertificate wraps the identity key for TLS. Nobody reads its names or
// dates: a node is its key.
func nodeCertificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	pub := key.Public().(ed25519.PublicKey)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "moult " + bundle.NodeIDOf(pub).Short()},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no well-defined end
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the node certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func (g *gate) tlsConfig(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{g.cert},
		NextProtos:   protocols,
		ClientAuth:   tls.RequireAnyClientCert,
		// No authority signs these certificates and no name in them counts:
		// VerifyConnection checks all there is, and the handshake itself that
		// the peer holds the key.
		InsecureSkipVerify:     true,
		VerifyConnection:       func(cs tls.ConnectionState) error { _, err := peerIdentity(cs); return err },
		SessionTicketsDisabled: true,
	}
}

// peerIdentity returns the node that a TLS session is with.
func peerIdentity(cs tls.ConnectionState) (bundle.NodeID, error) {
	if len(cs.PeerCertificates) != 1 {
		return bundle.NodeID{}, fmt.Errorf("peer sent %d certificates: want exactly one node certificate", len(cs.PeerCertificates))
	}
	pub, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return bundle.NodeID{}, errors.New("peer's certificate has no ed25519 key: not a node certificate")
	}
	return bundle.NodeIDOf(pub), nil
}

// dial makes an outbound stream of raw. The deadline is the caller's to set
// before and to clear after.
func (g *gate) dial(raw net.Conn, protocol string) (*tls.Conn, bundle.NodeID, error) {
	c := tls.Client(raw, g.tlsConfig(protocol))
	if err := c.Handshake(); err != nil {
		return nil, bundle.NodeID{}, fmt.Errorf("TLS: %w (is it a moult agent?)", err)
	}
	proof, id, err := g.session(c)
	if err != nil {
		return nil, id, err
	}
	key := g.proofKeys[0]
	if _, err := c.Write(proof(key, roleDialer)); err != nil {
		return nil, id, fmt.Errorf("sending the admission proof: %w", err)
	}
	got := make([]byte, proofSize)
	if _, err := io.ReadFull(c, got); err != nil {
		return nil, id, fmt.Errorf("reading the peer's admission proof: %w", err)
	}
	if !hmac.Equal(got, proof(key, roleListener)) {
		return nil, id, ErrForeign
	}
	return c, id, nil
}

// accept is dial's other side. The dialer proves itself first. A dialer that
// cannot is sent zeros, which are nobody's proof, so that it can tell refusal
// from a broken network.
func (g *gate) accept(raw net.Conn) (*tls.Conn, bundle.NodeID, error) {
	c := tls.Server(raw, g.tlsConfig(alpnRing, alpnPeer))
	if err := c.Handshake(); err != nil {
		return nil, bundle.NodeID{}, fmt.Errorf("TLS: %w", err)
	}
	if c.ConnectionState().NegotiatedProtocol == "" {
		return nil, bundle.NodeID{}, errors.New("TLS: the peer named no protocol")
	}
	proof, id, err := g.session(c)
	if err != nil {
		return nil, id, err
	}
	got := make([]byte, proofSize)
	if _, err := io.ReadFull(c, got); err != nil {
		return nil, id, fmt.Errorf("reading the peer's admission proof: %w", err)
	}
	at := slices.IndexFunc(g.proofKeys, func(key []byte) bool { return hmac.Equal(got, proof(key, roleDialer)) })
	if at < 0 {
		_, _ = c.Write(make([]byte, proofSize))
		return nil, id, ErrForeign
	}
	if _, err := c.Write(proof(g.proofKeys[at], roleListener)); err != nil {
		return nil, id, fmt.Errorf("sending the admission proof: %w", err)
	}
	return c, id, nil
}

// session returns what proves, in this TLS session, that a side has a key, and whom the
// session is with.
func (g *gate) session(c *tls.Conn) (proof func(key []byte, role string) []byte, id bundle.NodeID, err error) {
	cs := c.ConnectionState()
	if id, err = peerIdentity(cs); err != nil {
		return nil, id, err
	}
	secret, err := cs.ExportKeyingMaterial(exporterLabel, g.cluster[:], 32)
	if err != nil {
		return nil, id, fmt.Errorf("TLS exporter: %w", err)
	}
	return func(key []byte, role string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(role))
		m.Write(secret)
		return m.Sum(nil)
	}, id, nil
}

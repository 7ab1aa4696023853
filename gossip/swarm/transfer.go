package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/klauspost/compress/zstd"

	"moult/store/bundle"
)

// Peers is the way to other peers' Servers. Its methods may be called
// concurrently.
type Peers interface {
	// Peers returns who can be asked now. The slice is the caller's.
	Peers() []Peer
	// Get asks a peer for path, which begins with Path and may have a query. The
	// caller closes the body. ctx bounds the whole exchange, body included.
	Get(ctx context.Context, peer bundle.NodeID, path string) (*http.Response, error)
}

// What can come of asking a peer, besides that for which it was asked.
var (
	errLacks = errors.New("does not have it")
	errBusy  = errors.New("is busy")
)

// lie is an answer that no honest peer gives, however its line or disk fails.
type lie struct{ what string }

func (l *lie) Error() string { return "sent wrong bytes: " + l.what }

func isLie(err error) bool {
	_, ok := errors.AsType[*lie](err)
	return ok
}

func havePath(artifact bundle.Digest) string {
	return Path + "have?digest=" + url.QueryEscape(artifact.String())
}

// asker asks one peer one thing.
type asker struct {
	peers    Peers
	decoders sync.Pool // of *zstd.Decoder
}

// have returns which of an artifact's chunks a peer has.
func (a *asker) have(ctx context.Context, peer bundle.NodeID, artifact bundle.Digest, chunks int) (_ []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, haveTimeout)
	defer cancel()
	resp, err := a.get(ctx, peer, havePath(artifact))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	want := (chunks + 7) / 8
	bits, err := io.ReadAll(io.LimitReader(resp.Body, int64(want)+1))
	if err != nil {
		return nil, err
	}
	if len(bits) != want {
		return nil, &lie{fmt.Sprintf("%d bytes or more say what it has of %d chunks", len(bits), chunks)}
	}
	return bits, nil
}

// bytes returns a chunk or blob that a peer has sent, verified.
func (a *asker) bytes(ctx context.Context, peer bundle.NodeID, kind string, c bundle.Chunk) (_ []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, transferTime(c.Length))
	defer cancel()
	resp, err := a.get(ctx, peer, Path+kind+"/"+c.Digest.Hex())
	if err != nil {
		return nil, err
	}
	// Closing early what is too long also ends its connection.
	defer func() { _ = resp.Body.Close() }()
	data, err := a.read(resp, c.Length)
	if err != nil {
		return nil, err
	}
	if bundle.Sum(data) != c.Digest {
		return nil, &lie{"their digest is another"}
	}
	return data, nil
}

// get asks, and returns the answer if it is 200.
func (a *asker) get(ctx context.Context, peer bundle.NodeID, path string) (*http.Response, error) {
	resp, err := a.peers.Get(ctx, peer, path)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound:
		return nil, errLacks
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return nil, errBusy
	}
	return nil, fmt.Errorf("answered %s", resp.Status)
}

// read returns the body of a response, which must have want bytes when
// it is decompressed.
func (a *asker) read(resp *http.Response, want int64) ([]byte, error) {
	body := &watched{r: resp.Body}
	var in io.Reader = body
	switch enc := resp.Header.Get("Content-Encoding"); enc {
	case "":
		if resp.ContentLength >= 0 && resp.ContentLength != want {
			return nil, &lie{fmt.Sprintf("%d of them instead of %d", resp.ContentLength, want)}
		}
	case "zstd":
		d, err := a.decoder(io.LimitReader(body, want)) // compressed only where smaller
		if err != nil {
			return nil, err
		}
		defer a.release(d)
		in = d
	default:
		return nil, fmt.Errorf("answered in an unknown encoding %.40q", enc)
	}
	data := make([]byte, want+1)
	n, err := io.ReadFull(in, data)
	switch {
	case body.failed != nil: // the line's fault, whatever came of it
		return nil, body.failed
	case err == nil:
		return nil, &lie{fmt.Sprintf("more than %d of them", want)}
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		return nil, &lie{err.Error()} // from the decoder
	case int64(n) != want:
		return nil, &lie{fmt.Sprintf("%d of them instead of %d", n, want)}
	}
	return data[:n], nil
}

func (a *asker) decoder(r io.Reader) (*zstd.Decoder, error) {
	if d, ok := a.decoders.Get().(*zstd.Decoder); ok {
		return d, d.Reset(r)
	}
	// Without concurrency a decoder has no goroutines, and needs no Close.
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxDecoderMemory), zstd.WithDecoderMaxWindow(maxDecoderWindow))
}

func (a *asker) release(d *zstd.Decoder) {
	if d.Reset(nil) == nil {
		a.decoders.Put(d)
	}
}

// watched remembers whether a body ended otherwise than by its end.
type watched struct {
	r      io.Reader
	failed error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && err != io.EOF {
		w.failed = err
	}
	return n, err
}

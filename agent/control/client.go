package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Client calls an agent. It is safe for concurrent use.
type Client struct {
	http  *http.Client
	base  string
	where string
	token string // the file of the token; "" where none is needed
}

// NewClient returns a client for an agent at where: its data folder, its
// socket, or an http:// address. Nothing is dialled yet.
func NewClient(where string) *Client {
	if strings.HasPrefix(where, "http://") {
		// By no proxy of the environment: it would read the token.
		return &Client{http: &http.Client{Transport: &http.Transport{}}, base: strings.TrimSuffix(where, "/"), where: where}
	}
	path := where
	if fi, err := os.Stat(where); err == nil && fi.IsDir() {
		path = filepath.Join(where, SocketName)
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialUnix(ctx, path) },
	}
	return &Client{http: &http.Client{Transport: transport}, base: "http://agent", where: path}
}

// UseToken has the client send the token of a file with each call; "" is none. It is
// for agents at http:// addresses, which may want one.
func (c *Client) UseToken(file string) { c.token = file }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the cluster as the agent sees it; live asks the peers now.
func (c *Client) Status(ctx context.Context, live bool) (s Status, err error) {
	path := "/v1/status"
	if live {
		path += "?live"
	}
	return s, c.get(ctx, path, &s)
}

// Members asks for the ring.
func (c *Client) Members(ctx context.Context) (m []Member, err error) {
	return m, c.get(ctx, "/v1/members", &m)
}

// Why asks what a node, named or by a unique prefix of its ID, waits for.
func (c *Client) Why(ctx context.Context, node string) (w Why, err error) {
	return w, c.get(ctx, "/v1/why?node="+url.QueryEscape(node), &w)
}

// Trust asks for the signed metadata and documents in force.
func (c *Client) Trust(ctx context.Context) (t Trust, err error) {
	return t, c.get(ctx, "/v1/trust", &t)
}

// Info asks about the agent itself.
func (c *Client) Info(ctx context.Context) (i Info, err error) {
	return i, c.get(ctx, "/v1/info", &i)
}

// History asks what the agent's node went through.
func (c *Client) History(ctx context.Context) (h History, err error) {
	return h, c.get(ctx, "/v1/history", &h)
}

// HistoryOf asks for what is known here of what any node went through.
func (c *Client) HistoryOf(ctx context.Context, node string) (h History, err error) {
	return h, c.get(ctx, "/v1/history?node="+url.QueryEscape(node), &h)
}

// StateCopy asks how long the node's state takes to copy, which the agent measures.
func (c *Client) StateCopy(ctx context.Context) (s StateCopy, err error) {
	return s, c.get(ctx, "/v1/copy", &s)
}

// Inject hands over a bundle, with what the operator signed for it (or nil).
func (c *Client) Inject(ctx context.Context, bundle io.Reader, signed *Signed) (a Accepted, err error) {
	pr, pw := io.Pipe()
	mw := multipart.NewWriter(pw)
	go func() { pw.CloseWithError(writeInjection(mw, bundle, signed)) }()
	defer pr.Close()
	return a, c.call(ctx, http.MethodPost, injectPath, mw.FormDataContentType(), pr, &a)
}

// bundleType is what a bundle by itself is sent as.
const bundleType = "application/octet-stream"

// Rehearse has a bundle's release run on a copy of the node's state; told hears what goes on.
func (c *Client) Rehearse(ctx context.Context, bundle io.Reader, told func(RehearsalNews)) (Rehearsal, error) {
	resp, err := c.ask(ctx, http.MethodPost, rehearsePath, bundleType, bundle)
	if err != nil {
		return Rehearsal{}, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(io.LimitReader(resp.Body, maxDocument))
	for {
		var n RehearsalNews
		switch err := lines.Decode(&n); {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return Rehearsal{}, &Error{Kind: KindFailed, Message: fmt.Sprintf("the agent at %s has ended before the rehearsal has", c.where), Hint: "when it is up again, try again: it has thrown away what was there"}
		case err != nil:
			return Rehearsal{}, fmt.Errorf("read answer of the agent at %s: %w", c.where, err)
		case n.Failed != nil:
			return Rehearsal{}, n.Failed
		case n.Report != nil:
			return *n.Report, nil
		case told != nil:
			told(n)
		}
	}
}

// Replace hands over a program that is to be the agent from now on, if it shows itself well
// within a deadline; 0 is the usual one. By then the agent that was asked has ended.
func (c *Client) Replace(ctx context.Context, program io.Reader, deadline time.Duration) (r Replacing, err error) {
	path := replacePath
	if deadline != 0 {
		path += "?deadline=" + url.QueryEscape(deadline.String())
	}
	return r, c.call(ctx, http.MethodPost, path, bundleType, program, &r)
}

// Accept hands over what an operator signed.
func (c *Client) Accept(ctx context.Context, signed Signed) (a Accepted, err error) {
	return a, c.post(ctx, "/v1/trust", signed, &a)
}

// Backup has the agent save its node.
func (c *Client) Backup(ctx context.Context, b BackupRequest) error {
	return c.post(ctx, "/v1/backup", b, &struct{}{})
}

// Join asks the agent to join peers; it returns how many it reached.
func (c *Client) Join(ctx context.Context, addrs []string) (n int, err error) {
	return n, c.post(ctx, "/v1/join", addrs, &n)
}

// Leave asks the agent to leave the ring and to end.
func (c *Client) Leave(ctx context.Context) error {
	return c.post(ctx, "/v1/leave", struct{}{}, &struct{}{})
}

// Resolve asks where the node's software is to call to reach an address, given as
// host:port.
func (c *Client) Resolve(ctx context.Context, address string) (r Resolved, err error) {
	return r, c.get(ctx, "/v1/resolve?address="+url.QueryEscape(address), &r)
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	return c.call(ctx, http.MethodGet, path, "", nil, v)
}

func (c *Client) post(ctx context.Context, path string, body, v any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, "application/json", bytes.NewReader(data), v)
}

func (c *Client) call(ctx context.Context, method, path, contentType string, body io.Reader, v any) error {
	resp, err := c.ask(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := c.read(resp)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read answer of the agent at %s: %w", c.where, err)
	}
	return nil
}

// ask makes a call. The answer is a good one; its body is the caller's to close.
func (c *Client) ask(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		token, err := ReadToken(c.token)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	data, err := c.read(resp)
	if err != nil {
		return nil, err
	}
	e := new(Error)
	if json.Unmarshal(data, e) != nil || e.Message == "" {
		return nil, fmt.Errorf("the agent at %s answered %s to %s", c.where, resp.Status, path)
	}
	return nil, e
}

func (c *Client) read(resp *http.Response) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read answer of the agent at %s: %w", c.where, err)
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("read answer of the agent at %s: more than %d bytes", c.where, maxDocument)
	}
	return data, nil
}

// explain turns a failure to reach the agent into what a person can act on.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return &Error{Kind: KindFailed,
			Message: fmt.Sprintf("no agent answers at %s", c.where),
			Hint:    "start one with `moult agent`, or name its data folder with --agent"}
	case errors.Is(err, fs.ErrPermission):
		return &Error{Kind: KindFailed,
			Message: fmt.Sprintf("not allowed to use the agent's socket %s", c.where),
			Hint:    "run the command as the user that runs the agent"}
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the URL is this package's own affair
	}
	return fmt.Errorf("call the agent at %s: %w", c.where, err)
}

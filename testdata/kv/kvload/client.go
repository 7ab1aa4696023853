package kvload

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// RefusalHeader is set on answers that were made between client and node.
const RefusalHeader = "Moult-Refusal"

// refusalDenied is RefusalHeader's value for a call that has no meaning at the
// node's version.
const refusalDenied = "denied"

// Limits of what a client reads.
const (
	maxAnswer = 16 << 20 // bytes of an answer
	maxQuote  = 400      // bytes of an answer in an error
)

// Value is what a key stands for.
type Value struct {
	Data []byte
	// Type is the content type. Version 1 has text/plain only.
	Type string
	// Revision is 0 where it is not known, as always in version 1.
	Revision int64
}

// StatusError is an answer other than 200.
type StatusError struct {
	Call    string // method and URL
	Status  int
	Body    string
	Refusal string // of RefusalHeader; "" where the node itself answered
}

func (e *StatusError) Error() string {
	by := ""
	if e.Refusal != "" {
		by = " (" + RefusalHeader + ": " + e.Refusal + ")"
	}
	return fmt.Sprintf("%s: %d %s%s: %s", e.Call, e.Status, http.StatusText(e.Status), by, e.Body)
}

// Reason returns what the answer gives as its reason.
func (e *StatusError) Reason() string {
	var body struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(e.Body), &body) == nil && body.Error != "" {
		return body.Error
	}
	return e.Body
}

// answered returns the node's own answer of some status that err is.
func answered(err error, status int) bool {
	var s *StatusError
	return errors.As(err, &s) && s.Refusal == "" && s.Status == status
}

// deniedBy returns the refusal that err is, or nil.
func deniedBy(err error) *StatusError {
	var s *StatusError
	if errors.As(err, &s) && s.Refusal == refusalDenied {
		return s
	}
	return nil
}

// Client speaks one version of kv's protocol to one node. It is safe for
// concurrent use, and takes only answers that are exactly of its version.
type Client struct {
	version int
	base    string
	http    *http.Client
	resend  bool // Config.Resend
}

// NewClient makes no call. base is the node's URL; version is 1, 2 or 3.
func NewClient(version int, base string, client *http.Client) (*Client, error) {
	if version < 1 || version > 3 {
		return nil, fmt.Errorf("kv client of version %d: there are versions 1 to 3", version)
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("kv client: node URL %q: want http://host:port", base)
	}
	return &Client{version: version, base: strings.TrimRight(base, "/"), http: client}, nil
}

// Bodies, as they go over the wire. Version 3 calls a value data.
type (
	pairV1 struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	objectV2 struct {
		Key         string `json:"key"`
		Value       string `json:"value"`
		Revision    int64  `json:"revision"`
		ContentType string `json:"content_type"`
	}
	objectV3 struct {
		Key         string `json:"key"`
		Data        string `json:"data"`
		Revision    int64  `json:"revision"`
		ContentType string `json:"content_type"`
	}
	putV2 struct {
		Value       string `json:"value"`
		ContentType string `json:"content_type,omitempty"`
		IfRevision  *int64 `json:"if_revision,omitempty"`
	}
	putV3 struct {
		Data        string `json:"data"`
		ContentType string `json:"content_type,omitempty"`
		IfRevision  *int64 `json:"if_revision,omitempty"`
	}
	ackV1 struct {
		Key string `json:"key"`
	}
	ackV2 struct {
		Key      string `json:"key"`
		Revision int64  `json:"revision"`
	}
	listBody struct {
		Keys []string `json:"keys"`
	}
)

// Get reads a key.
func (c *Client) Get(ctx context.Context, key string) (Value, error) {
	if c.version == 1 {
		var p pairV1
		if err := c.call(ctx, http.MethodGet, "/get?k="+url.QueryEscape(key), nil, &p); err != nil {
			return Value{}, err
		}
		return Value{Data: []byte(p.Value), Type: plainText}, sameKey(p.Key, key)
	}
	var o objectV2
	var err error
	if c.version == 2 {
		err = c.call(ctx, http.MethodGet, c.path(key), nil, &o)
	} else {
		var v3 objectV3
		err = c.call(ctx, http.MethodGet, c.path(key), nil, &v3)
		o = objectV2{Key: v3.Key, Value: v3.Data, Revision: v3.Revision, ContentType: v3.ContentType}
	}
	if err != nil {
		return Value{}, err
	}
	v := Value{Data: []byte(o.Value), Type: o.ContentType, Revision: o.Revision}
	if !strings.HasPrefix(o.ContentType, "text/") {
		if v.Data, err = base64.StdEncoding.Strict().DecodeString(o.Value); err != nil {
			return Value{}, fmt.Errorf("get %q: value of type %q: %w", key, o.ContentType, err)
		}
	}
	return v, sameKey(o.Key, key)
}

// Put writes a key and returns its revision, 0 in version 1. Not nil,
// ifRevision is the condition. Version 1 has no conditions and no types.
func (c *Client) Put(ctx context.Context, key string, v Value, ifRevision *int64) (int64, error) {
	if c.version == 1 {
		if ifRevision != nil || v.Type != plainText {
			return 0, fmt.Errorf("put %q: version 1 has no conditions and no types: %w", key, errors.ErrUnsupported)
		}
		var ack ackV1
		if err := c.call(ctx, http.MethodPut, "/set", pairV1{Key: key, Value: string(v.Data)}, &ack); err != nil {
			return 0, err
		}
		return 0, sameKey(ack.Key, key)
	}
	value := string(v.Data)
	if !strings.HasPrefix(v.Type, "text/") {
		value = base64.StdEncoding.EncodeToString(v.Data)
	}
	var body any = putV2{Value: value, ContentType: v.Type, IfRevision: ifRevision}
	if c.version == 3 {
		body = putV3{Data: value, ContentType: v.Type, IfRevision: ifRevision}
	}
	var ack ackV2
	if err := c.call(ctx, http.MethodPut, c.path(key), body, &ack); err != nil {
		return 0, err
	}
	return ack.Revision, sameKey(ack.Key, key)
}

// Delete removes a key. Version 1 cannot.
func (c *Client) Delete(ctx context.Context, key string) error {
	if c.version == 1 {
		return fmt.Errorf("delete %q: version 1 cannot: %w", key, errors.ErrUnsupported)
	}
	var ack ackV2
	if err := c.call(ctx, http.MethodDelete, c.path(key), nil, &ack); err != nil {
		return err
	}
	return sameKey(ack.Key, key)
}

// List returns all keys of the node.
func (c *Client) List(ctx context.Context) ([]string, error) {
	path := [...]string{1: "/list", 2: "/v2/keys", 3: "/v3/entries"}[c.version]
	var l listBody
	err := c.call(ctx, http.MethodGet, path, nil, &l)
	return l.Keys, err
}

// path is of a key, in version 2 and 3.
func (c *Client) path(key string) string {
	if c.version == 2 {
		return "/v2/keys/" + url.PathEscape(key)
	}
	return "/v3/entries/" + url.PathEscape(key)
}

func sameKey(got, want string) error {
	if got != want {
		return fmt.Errorf("the answer is about key %q, the call was about %q", got, want)
	}
	return nil
}

// call sends in, unless it is nil, as JSON, and reads the answer 200 into out.
// Any other answer is a *StatusError.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.resend {
		// Puts and deletes are idempotent. The key without a value is not sent: it
		// tells net/http so.
		r.Header["Idempotency-Key"] = nil
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	call := method + " " + c.base + path
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: read the answer: %w", call, err)
	case len(data) > maxAnswer:
		return fmt.Errorf("%s: an answer of more than %d bytes", call, maxAnswer)
	case resp.StatusCode != http.StatusOK:
		return &StatusError{
			Call: call, Status: resp.StatusCode, Body: quote(data), Refusal: resp.Header.Get(RefusalHeader),
		}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return fmt.Errorf("%s: answer %s: %w", call, quote(data), err)
	}
	return nil
}

// quote cuts an answer to what an error can show.
func quote(data []byte) string {
	s := strings.TrimSpace(string(data))
	if len(s) > maxQuote {
		s = s[:maxQuote] + "…"
	}
	return s
}

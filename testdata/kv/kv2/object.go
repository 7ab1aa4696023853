package kv2

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"moult/testdata/kv/internal/disk"
	"moult/testdata/kv/internal/node"
)

// defaultType is the content type of a value that was put without one.
const defaultType = "text/plain"

// maxType bounds the bytes of a content type.
const maxType = 128

// Object is a key with what it stands for. Value is as it goes over the wire:
// see text.
type Object struct {
	Key         string `json:"key"`
	Value       string `json:"value"`
	Revision    int64  `json:"revision"`
	ContentType string `json:"content_type"`
}

// Record is an object, or what is left of a deleted one, as it is stored.
type Record struct {
	Key         string `json:"key"`
	Value       string `json:"value,omitempty"`
	Revision    int64  `json:"revision"`
	ContentType string `json:"content_type,omitempty"`
	Deleted     bool   `json:"deleted,omitempty"`
}

func (r Record) object() Object {
	return Object{Key: r.Key, Value: r.Value, Revision: r.Revision, ContentType: r.ContentType}
}

func (o Object) record() Record {
	return Record{Key: o.Key, Value: o.Value, Revision: o.Revision, ContentType: o.ContentType}
}

// normalType returns a content type in its one form.
func normalType(s string) (string, error) {
	if s == "" {
		return defaultType, nil
	}
	if len(s) > maxType {
		return "", fmt.Errorf("content_type has %d bytes, at most %d", len(s), maxType)
	}
	kind, params, err := mime.ParseMediaType(s)
	if err != nil {
		return "", fmt.Errorf("content_type %q: %w", s, err)
	}
	normal := mime.FormatMediaType(kind, params)
	if normal == "" || !strings.Contains(kind, "/") {
		return "", fmt.Errorf("content_type %q: want type/subtype", s)
	}
	return normal, nil
}

// text reports whether values of a content type go over the wire as they are;
// those of all others go as base64.
func text(contentType string) bool { return strings.HasPrefix(contentType, "text/") }

// checkValue says what is wrong with a value in its wire form.
func checkValue(value, contentType string) error {
	size := len(value)
	if !text(contentType) {
		data, err := base64.StdEncoding.Strict().DecodeString(value)
		if err != nil {
			return fmt.Errorf("value: %s goes as base64: %w", contentType, err)
		}
		size = len(data)
	}
	if size > node.MaxValue {
		return fmt.Errorf("the value has %d bytes, at most %d", size, node.MaxValue)
	}
	return nil
}

// encode returns the wire form and the content type of what a file of version
// 1 holds. That should be text; what is not is kept, as bytes.
func encode(data []byte) (value, contentType string) {
	if utf8.Valid(data) {
		return string(data), defaultType
	}
	return base64.StdEncoding.EncodeToString(data), "application/octet-stream"
}

// check says what is wrong with an object that came from elsewhere.
func (o Object) check() error {
	if err := node.CheckKey(o.Key); err != nil {
		return err
	}
	if normal, err := normalType(o.ContentType); err != nil || normal != o.ContentType {
		return errors.Join(fmt.Errorf("content type %q", o.ContentType), err)
	}
	if o.Revision < 0 {
		return fmt.Errorf("revision %d", o.Revision)
	}
	return checkValue(o.Value, o.ContentType)
}

// parseRecord reads a stored record.
func parseRecord(data []byte) (Record, error) {
	var r Record
	if err := node.DecodeJSON(data, &r); err != nil {
		return Record{}, err
	}
	if r.Revision < 1 {
		return Record{}, fmt.Errorf("revision %d", r.Revision)
	}
	if r.Deleted {
		return r, node.CheckKey(r.Key)
	}
	return r, r.object().check()
}

// write stores a record below an objects folder.
func (r Record) write(w disk.Writer, objects string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode %q: %w", r.Key, err)
	}
	path := filepath.Join(objects, objectPath(r.Key))
	if err := w.Mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	return w.Replace(path, append(data, '\n'))
}

package kv3

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"path/filepath"
	"strings"

	"moult/testdata/kv/internal/disk"
	"moult/testdata/kv/internal/node"
)

// defaultType is the content type of data that was put without one.
const defaultType = "text/plain"

// maxType bounds the bytes of a content type.
const maxType = 128

// Object is a key with what it stands for. Data is as it goes over the wire:
// see text.
type Object struct {
	Key         string `json:"key"`
	Data        string `json:"data"`
	Revision    int64  `json:"revision"`
	ContentType string `json:"content_type"`
}

// record is an object, or what is left of a deleted one, as it is stored.
type record struct {
	Key         string `json:"key"`
	Data        string `json:"data,omitempty"`
	Revision    int64  `json:"revision"`
	ContentType string `json:"content_type,omitempty"`
	Deleted     bool   `json:"deleted,omitempty"`
}

func (r record) object() Object {
	return Object{Key: r.Key, Data: r.Data, Revision: r.Revision, ContentType: r.ContentType}
}

func (o Object) record() record {
	return record{Key: o.Key, Data: o.Data, Revision: o.Revision, ContentType: o.ContentType}
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

// text reports whether data of a content type goes over the wire as it is;
// that of all others goes as base64.
func text(contentType string) bool { return strings.HasPrefix(contentType, "text/") }

// checkData says what is wrong with data in its wire form.
func checkData(data, contentType string) error {
	size := len(data)
	if !text(contentType) {
		raw, err := base64.StdEncoding.Strict().DecodeString(data)
		if err != nil {
			return fmt.Errorf("data: %s goes as base64: %w", contentType, err)
		}
		size = len(raw)
	}
	if size > node.MaxValue {
		return fmt.Errorf("the data has %d bytes, at most %d", size, node.MaxValue)
	}
	return nil
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
	return checkData(o.Data, o.ContentType)
}

// parseRecord reads a stored record.
func parseRecord(data []byte) (record, error) {
	var r record
	if err := node.DecodeJSON(data, &r); err != nil {
		return record{}, err
	}
	if r.Revision < 1 {
		return record{}, fmt.Errorf("revision %d", r.Revision)
	}
	if r.Deleted {
		return r, node.CheckKey(r.Key)
	}
	return r, r.object().check()
}

// write stores a record below an objects folder.
func (r record) write(w disk.Writer, objects string) error {
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

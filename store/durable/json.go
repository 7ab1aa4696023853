package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// StrictJSON decodes what a file of ours has: one value, with no field that v has not, and
// nothing behind it.
func StrictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the value")
	}
	return nil
}

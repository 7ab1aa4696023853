package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"unicode/utf8"
)

// Failure is what a call that is not carried out answers.
type Failure struct {
	Error string `json:"error"`
}

// Answer sends v as JSON.
func Answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		// The types that go through here are our own and always encode.
		panic(fmt.Sprintf("kv: encode %T: %v", v, err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A caller that has gone cannot be told.
	_, _ = w.Write(append(body, '\n'))
}

// Fail sends err as JSON.
func Fail(w http.ResponseWriter, status int, err error) {
	Answer(w, status, Failure{Error: err.Error()})
}

// ReadJSON reads the body of a call into v. It takes nothing that it would
// have to change or leave out: text that is not UTF-8, unknown fields, more
// than one value.
func ReadJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	if err := DecodeJSON(body, v); err != nil {
		return fmt.Errorf("the body: %w", err)
	}
	return nil
}

// DecodeJSON is as strict as ReadJSON.
func DecodeJSON(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

package kv2

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The state of the objects in testdata/wasm/kvtypes is one file a key:
//
//	types-KEY    JSON: {VALUE: type, …} of what was written lately, by the future object
//	shown-KEY    VALUE, by the transform, for the past object
//
// KEY and VALUE are the SHA-256 of the key and of the value as version 1 has it, in
// hexadecimal.
const (
	typesPrefix = "types-"
	shownPrefix = "shown-"
)

// retype gives a record the type that the future object has noted for its value,
// and has the past object show it to callers of version 1, who have seen it as text.
func (r *Record) retype(future, past string) error {
	if future == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(future, typesPrefix+hash(r.Key)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var types map[string]string
	if err := json.Unmarshal(data, &types); err != nil {
		return fmt.Errorf("types of %q: %w", r.Key, err)
	}
	kind, noted := types[hash(r.Value)]
	if !noted {
		return nil // it was written by a caller of version 1
	}
	if kind, err = normalType(kind); err == nil {
		err = checkValue(r.Value, kind)
	}
	if err != nil {
		return fmt.Errorf("value of %q: %w", r.Key, err)
	}
	r.ContentType = kind
	if past == "" || text(kind) {
		return nil
	}
	return os.WriteFile(filepath.Join(past, shownPrefix+hash(r.Key)), []byte(hash(r.Value)), 0o600)
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"moult/agent/control"
)

// auditFile is the file of the data folder that has a line for each call that changed
// something, or was to.
const auditFile = "log/audit.jsonl"

// Audit appends what was done, durably. That it cannot be written is logged, and undoes
// nothing. It may be called from any goroutine.
func (h *Home) Audit(d control.Deed) {
	h.audit.Lock()
	defer h.audit.Unlock()
	if err := h.appendAudit(d); err != nil {
		h.log.Error("a call is not noted in the audit", "call", d.Call, "by", d.By, "err", err)
	}
}

func (h *Home) appendAudit(d control.Deed) (err error) {
	for _, text := range []*string{&d.Message, &d.Error} {
		if len(*text) > maxAuditText {
			*text = strings.ToValidUTF8((*text)[:maxAuditText], "") + "…"
		}
	}
	line, err := json.Marshal(d)
	if err != nil {
		return err
	}
	path := filepath.Join(h.cfg.Data, auditFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	if err := rotateAudit(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	return f.Sync()
}

// rotateAudit moves every file on by one where the newest is long.
func rotateAudit(path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() < maxAudit {
		return nil
	}
	if err != nil {
		return err
	}
	for i := keepAudit - 1; i >= 0; i-- {
		from := path
		if i > 0 {
			from = fmt.Sprintf("%s.%d", path, i)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", path, i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

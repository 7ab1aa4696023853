package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"

	"moult/agent/control"
)

// auditFile is the file of the data folder that has a line for each call that changed
// something, or was to.
const auditFile = "log/audit.jsonl"

// Audit appends what was done, durably, and tells systemd's journal where the agent logs to
// that. That it cannot be written is logged, and undoes nothing. It may be called from any
// goroutine.
func (h *Home) Audit(d control.Deed) {
	d.Message, d.Error = clip(d.Message, maxAuditText), clip(d.Error, maxAuditText)
	line, err := json.Marshal(d)
	if err == nil {
		err = errors.Join(h.appendAudit(line), h.journalAudit(d, line))
	}
	if err != nil {
		h.log.Error("a call is not noted in the audit", "call", d.Call, "by", d.By, "err", err)
	}
}

// journalAudit tells systemd's journal, if that gets what this process logs. One that hangs
// holds the caller up, as it would by the log.
func (h *Home) journalAudit(d control.Deed, line []byte) error {
	if there, err := journal.StderrIsJournalStream(); err != nil || !there {
		return err
	}
	what, priority := d.Message, journal.PriNotice
	if d.Error != "" {
		what, priority = d.Error, journal.PriWarning
	}
	err := journal.Send(strings.TrimSuffix(fmt.Sprintf("%s by %s: %s", d.Call, d.By, what), ": "), priority, map[string]string{
		"SYSLOG_IDENTIFIER": "moult", "MOULT_NODE": h.cfg.Name, "MOULT_CALL": d.Call, "MOULT_AUDIT": string(line),
	})
	if err != nil {
		return fmt.Errorf("tell systemd's journal: %w", err)
	}
	return nil
}

func (h *Home) appendAudit(line []byte) (err error) {
	h.audit.Lock()
	defer h.audit.Unlock()
	path := filepath.Join(h.cfg.Data, auditFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	rotated := rotateAudit(path)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return errors.Join(rotated, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if rotated != nil {
		if fi.Size() >= 2*maxAudit {
			return fmt.Errorf("%s is too long, and cannot be moved on: %w", path, rotated)
		}
		h.log.Warn("the audit is long, and cannot be moved on: it is still written to, up to twice its length", "file", path, "err", rotated)
	}
	if line, err = onItsOwn(f, fi.Size(), append(line, '\n')); err != nil {
		return err
	}
	if _, err := f.Write(line); err != nil {
		return err
	}
	return f.Sync()
}

// clip cuts a text that is long, at most bytes.
func clip(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// onItsOwn has a line begin a line, also where the one before was cut off by a crash or a
// full disk.
func onItsOwn(f *os.File, size int64, line []byte) ([]byte, error) {
	if size == 0 {
		return line, nil
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, size-1); err != nil {
		return nil, err
	}
	if last[0] != '\n' {
		line = append([]byte{'\n'}, line...)
	}
	return line, nil
}

// rotateAudit moves every file on by one where the newest is long. It goes up to the first
// number that is free: a crash half-way has left one, and then nothing is overwritten.
func rotateAudit(path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() < maxAudit {
		return nil
	}
	if err != nil {
		return err
	}
	name := func(i int) string {
		if i == 0 {
			return path
		}
		return fmt.Sprintf("%s.%d", path, i)
	}
	to := 1
	for ; to < keepAudit; to++ {
		if _, err := os.Lstat(name(to)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	for ; to > 0; to-- {
		if err := os.Rename(name(to-1), name(to)); err != nil {
			return err
		}
	}
	return nil
}

package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// badgerOptions keeps Badger small: one small table in memory, no block cache
// (blocks are not compressed, so they are read from the page cache), and no
// second compaction than Badger insists on. Every block is checked when read.
//
// Badger's own lock is bypassed: Store holds one for the whole data folder,
// and Badger would keep its own open when Open panics.
func badgerOptions(dir string, log *slog.Logger) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithNumMemtables(1).
		WithMemTableSize(memTableSize).
		WithBaseTableSize(tableSize).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(valueLogSize).
		WithNumCompactors(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(6).
		WithNumGoroutines(1).
		WithDetectConflicts(false). // one writer at a time, by Store.write
		WithMetricsEnabled(false).
		WithBypassLockGuard(true).
		WithLogger(badgerLog{log})
}

// openBadger turns a panic of Badger's into an error. Some of its checks end
// the process instead: see checkTables and attempts.
func openBadger(dir string, log *slog.Logger) (db *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("badger panicked: %.200v", r)
		}
	}()
	return badger.Open(badgerOptions(dir, log))
}

// badgerLog sends Badger's talk to slog. What is information to Badger is
// debugging to an agent's operator.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(format string, a ...any)   { l.say(slog.LevelError, format, a) }
func (l badgerLog) Warningf(format string, a ...any) { l.say(slog.LevelWarn, format, a) }
func (l badgerLog) Infof(format string, a ...any)    { l.say(slog.LevelDebug, format, a) }
func (l badgerLog) Debugf(string, ...any)            {}

func (l badgerLog) say(level slog.Level, format string, a []any) {
	if ctx := context.Background(); l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, "badger", "text", strings.TrimSpace(fmt.Sprintf(format, a...)))
	}
}

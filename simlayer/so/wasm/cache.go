package wasm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"

	"moult/simlayer/so/wasm/fuel"
	"moult/store/durable"
)

// sumsFile lists the files of one cached module with their hashes. wazero checks
// the code that it loads by a short checksum, and other things not at all; what
// it would run is machine code, so nothing of it is used that is not as it was
// written.
const sumsFile = "sums.json"

// compileCache is compiled code on disk: a folder for each module.
type compileCache struct {
	dir string // of this module
	log *slog.Logger
}

// newCache returns the cache of module in root, or nil where root is "".
func newCache(root string, module []byte, log *slog.Logger) *compileCache {
	if root == "" {
		return nil
	}
	sum := sha256.Sum256(module)
	return &compileCache{filepath.Join(root, hex.EncodeToString(sum[:])), log}
}

// open returns what wazero needs to use the cache; nil where it cannot be used,
// which costs time only.
func (c *compileCache) open() wazero.CompilationCache {
	if c == nil {
		return nil
	}
	if err := c.check(); err != nil {
		c.log.Info("wasmCacheDropped", "folder", c.dir, "reason", err)
		c.drop()
	}
	prune(filepath.Dir(c.dir), MaxCached-1, filepath.Base(c.dir))
	// wazero makes the folders that are not there, 0700.
	cache, err := wazero.NewCompilationCacheWithDir(c.dir)
	if err != nil {
		c.log.Warn("wasmCacheUnusable", "folder", c.dir, "err", err)
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(c.dir, now, now) // it only keeps pruning away
	return cache
}

func (c *compileCache) drop() {
	if err := os.RemoveAll(c.dir); err != nil {
		c.log.Warn("wasmCacheNotRemoved", "folder", c.dir, "err", err)
	}
}

// check says why what is in the folder must not be used. A folder that is not
// there may be.
func (c *compileCache) check() error {
	if _, err := os.Lstat(c.dir); err != nil {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(c.dir, sumsFile))
	if err != nil {
		return fmt.Errorf("it was not finished: %w", err)
	}
	var want map[string]string
	if err := json.Unmarshal(data, &want); err != nil {
		return fmt.Errorf("%s: %w", sumsFile, err)
	}
	got, err := c.sums()
	if err != nil {
		return err
	}
	for path, sum := range got {
		if want[path] != sum {
			return fmt.Errorf("%s is not what was written", path)
		}
	}
	return nil
}

// seal records what wazero has written, so that it can be used again.
func (c *compileCache) seal() {
	if c == nil {
		return
	}
	if _, err := os.Lstat(filepath.Join(c.dir, sumsFile)); err == nil {
		return
	}
	sums, err := c.sums()
	if err == nil {
		data, _ := json.Marshal(sums) // a map of strings cannot fail
		err = durable.WriteFile(filepath.Join(c.dir, sumsFile), data, 0o600)
	}
	if err != nil {
		c.log.Warn("wasmCacheNotSealed", "folder", c.dir, "err", err)
		c.drop()
	}
}

func (c *compileCache) sums() (map[string]string, error) {
	sums := map[string]string{}
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == sumsFile {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", path)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		rel, err := filepath.Rel(c.dir, path)
		sums[rel] = hex.EncodeToString(h.Sum(nil))
		return err
	})
	return sums, err
}

// prune removes the folders in root that were not used for longest, but keep of
// them and the one called but.
func prune(root string, keep int, but string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	type used struct {
		name string
		at   time.Time
	}
	var all []used
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && e.IsDir() && len(e.Name()) == hex.EncodedLen(sha256.Size) && e.Name() != but {
			all = append(all, used{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b used) int { return b.at.Compare(a.at) })
	for _, u := range all[min(keep, len(all)):] {
		// Whoever runs this code has it in memory.
		_ = os.RemoveAll(filepath.Join(root, u.name))
	}
}

// Compile puts the compiled code of a module into cacheDir, where Open finds it: that
// of a guest in Go takes a second or more to make, and a twentieth of that to load. An
// error says what is wrong with the module, as far as it shows by then.
func Compile(ctx context.Context, module []byte, cacheDir string, log *slog.Logger) error {
	changed, err := fuel.Instrument(module)
	if err != nil {
		return err
	}
	o := &Object{config: Config{Log: log, Limits: Limits{Pages: MaxPages}}}
	defer o.closeRuntime(context.WithoutCancel(ctx))
	return o.compile(ctx, changed.Wasm, newCache(cacheDir, changed.Wasm, log))
}

// compile compiles module in a new runtime with the host's modules in it.
func (o *Object) compile(ctx context.Context, module []byte, cache *compileCache) error {
	files := cache.open()
	err := o.compileWith(ctx, module, files)
	if err != nil && files != nil {
		// It may be the cache's fault: a full disk, say.
		o.closeRuntime(ctx)
		cache.drop()
		return o.compileWith(ctx, module, nil)
	}
	if files != nil {
		cache.seal()
	}
	return err
}

func (o *Object) closeRuntime(ctx context.Context) {
	if o.runtime != nil {
		// Closing ends no file and writes nothing: there is nothing to report.
		_ = o.runtime.Close(ctx)
	}
	if o.files != nil {
		_ = o.files.Close(ctx)
	}
	o.runtime, o.files, o.compiled = nil, nil, nil
}

package home

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"moult/agent/account"
	"moult/agent/account/sandbox"
	"moult/agent/config"
	"moult/store"
	"moult/store/artifact"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/store/durable"
	"moult/transforms"
)

// Home is a data folder, open and locked. Its fields do not change.
type Home struct {
	FirstRoot []byte
	Genesis   *trust.Verified // what the first root says
	Cluster   bundle.Digest
	Key       ed25519.PrivateKey
	ID        bundle.NodeID
	Another   bool // the key was lost, so it is another node than before
	Store     *store.Store
	Depot     *artifact.Depot
	Account   *account.Account // of the node's programs; nil: this process's user
	Sandbox   *sandbox.Sandbox // of those that work beside the software
	Former    []int            // users whose state there is: the programs may have been theirs
	Slots     *transforms.Slots
	Saving    sync.Mutex // held while a backup is made

	cfg  config.Config
	log  *slog.Logger
	now  func() time.Time
	blob func(bundle.Digest) ([]byte, bool, error) // nil: the Depot's

	audit sync.Mutex   // of the audit's files
	taken atomic.Int64 // bytes that bundles have brought
}

// Open opens the data folder of a configuration, for this process alone. The caller closes
// it.
func Open(cfg config.Config, log *slog.Logger) (*Home, error) {
	h := &Home{cfg: cfg, log: log, now: time.Now}
	if err := h.open(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close lets the folder go. It may be called twice.
func (h *Home) Close() error {
	if h.Store == nil {
		return nil
	}
	return h.Store.Close()
}

func (h *Home) open() error {
	cfg := h.cfg
	if err := errors.Join(Restoring(cfg.Data), h.resolveAccount()); err != nil {
		return err
	}
	h.Sandbox = sandboxOf(cfg)
	var err error
	if h.FirstRoot, err = durable.ReadFile(cfg.Root, maxRootFile); err != nil {
		return fmt.Errorf("read the cluster's first root: %w; `moult trust init` makes it", err)
	}
	if h.Genesis, err = trust.Genesis(h.FirstRoot); err != nil {
		return fmt.Errorf("read the cluster's first root %s: %w", cfg.Root, err)
	}
	h.Cluster = h.Genesis.Cluster()
	if h.Store, err = store.Open(cfg.Data, store.Options{Log: h.log}); err != nil {
		return err
	}
	floor := h.Store.Floor()
	if !floor.Cluster.IsZero() && floor.Cluster != h.Cluster {
		return fmt.Errorf("data folder %s belongs to cluster %s, and %s is the root of cluster %s: give the agent another data folder or the other root",
			cfg.Data, floor.Cluster.Short(), cfg.Root, h.Cluster.Short())
	}
	if h.Key, h.Another, err = loadIdentity(cfg.Data); err != nil {
		return err
	}
	h.Another = h.Another && !floor.Cluster.IsZero()
	if err := h.Store.Raise(func(floor *store.Floor) { floor.Cluster = h.Cluster }); err != nil {
		return err
	}
	h.ID = bundle.NodeIDOf(h.Key.Public().(ed25519.PublicKey))
	return h.openFiles()
}

// sandboxOf is that of the node's programs beside its software: without what is the agent's
// own. What is below the data folder and theirs is added for each.
func sandboxOf(cfg config.Config) *sandbox.Sandbox {
	s := &sandbox.Sandbox{Given: cfg.Readable, GivenToWrite: cfg.Writable}
	for _, path := range append([]string{cfg.Data, cfg.File, cfg.APIToken}, Secrets(cfg)...) {
		if abs, err := filepath.Abs(path); err == nil && path != "" {
			s.Kept = append(s.Kept, abs)
		}
	}
	return s
}

// resolveAccount finds under whom the node's programs run, and looks whether that user is
// kept from what the agent goes by.
func (h *Home) resolveAccount() (err error) {
	cfg := h.cfg
	if cfg.User != "" {
		if h.Account, err = account.Resolve(cfg.User, cfg.Group, cfg.Groups); err != nil {
			return err
		}
	}
	if err := h.Account.KeptFrom(cfg.Data, "state", "objects"); err != nil {
		return err
	}
	files := []string{cfg.File, cfg.Root, cfg.GossipKey, cfg.JoinToken, cfg.APIToken}
	for _, word := range cfg.OnEvent { // a program, a script, or a file of options; what PATH names is the machine's
		if fi, err := os.Stat(word); err == nil && fi.Mode().IsRegular() && filepath.IsAbs(word) {
			files = append(files, word)
		}
	}
	for _, file := range files {
		if err := h.Account.KeptFrom(file); err != nil {
			return err
		}
	}
	return nil
}

// openFiles opens depot and slots, and lets the programs' user through to them, and to
// nothing else.
func (h *Home) openFiles() (err error) {
	artifacts, state := filepath.Join(h.cfg.Data, "artifacts"), filepath.Join(h.cfg.Data, "state")
	if h.Depot, err = artifact.Open(artifacts, artifact.Options{Log: h.log, CheckSpace: transforms.CheckSpace}); err != nil {
		return err
	}
	for _, dir := range []string{h.cfg.Data, artifacts} { // whatever the umask is
		if err := transforms.Enter(dir, h.Account); err != nil {
			return err
		}
	}
	for _, file := range Secrets(h.cfg) { // the folders are entered: they hide nothing any more
		if err := h.Account.HiddenFrom(file); err != nil {
			return err
		}
	}
	if h.Slots, err = transforms.OpenSlotsOf(h.Account, state); err != nil {
		return err
	}
	if h.Former, err = h.Slots.Owners(); err != nil {
		return err
	}
	if b := h.cfg.Bounds; b != nil && b.WorkingDir != "" {
		if info, err := os.Stat(b.WorkingDir); err != nil || !info.IsDir() {
			return fmt.Errorf("working_dir = %q: there is no such folder: make it, or name another", b.WorkingDir)
		}
		if err := h.Account.Reaches(b.WorkingDir); err != nil {
			return fmt.Errorf("working_dir: %w", err)
		}
	}
	return errors.Join(h.Account.Reaches(state), h.Account.Reaches(artifacts))
}

// Secrets are the files that the software's user must not read; "" is none.
func Secrets(cfg config.Config) []string {
	return []string{filepath.Join(cfg.Data, IdentityFile), cfg.GossipKey, cfg.JoinToken}
}

// Users are all under whom programs of the node may have been started.
func (h *Home) Users() []int { return append(h.Account.Users(), h.Former...) }

// Rehearsals is the folder of rehearsals: beside the slots, whose paths are absolute.
func (h *Home) Rehearsals() string { return filepath.Join(h.Slots.Path(0), "..", "..", "rehearsal") }

// DemandedFolder is where the bundle is kept that somebody wants rehearsed, and what is in it.
func (h *Home) DemandedFolder() string { return h.Rehearsals() + "-bundle" }

// BackupFolder is where the software's state is copied on its way to a backup.
func (h *Home) BackupFolder() string { return h.Rehearsals() + "-backup" }

// LacksState says that there is no slot of version v; "" where there is one.
func (h *Home) LacksState(v bundle.Version) string {
	if v == 0 || h.Slots.Exists(v) {
		return ""
	}
	return fmt.Sprintf("the state of version %d, which this node runs, is gone from %s: restore it from a backup", v, h.Slots.Path(v))
}

// SpaceFor checks that the disk has room for slots like the running one, one for each
// version of a path.
func (h *Home) SpaceFor(running bundle.Version, path []bundle.Version) error {
	var given []string
	for _, v := range path {
		states := []string{h.Slots.Objects().FutureState(v), h.Slots.Objects().Complement(v)}
		if v < running {
			states = []string{h.Slots.Objects().PastState(running)}
		}
		for _, state := range states {
			if state != "" {
				given = append(given, state)
			}
		}
	}
	need, err := transforms.NeedBytes(h.Slots.Path(running), given...)
	if err != nil {
		return err
	}
	return h.Store.CheckSpace(need*int64(len(path)) + spareDisk)
}
